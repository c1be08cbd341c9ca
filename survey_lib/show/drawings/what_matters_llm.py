"""GUM: neurons that training moves away from zero stay, unless others put out the same."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    drawing,
    rule,
    score,
    words,
)

KEY = "gum"
MOVED = (74, 58, 66, 42, 48, 14)
"""How far training has moved each of six neurons away from zero."""
LIKE = (6, 36, 36, 4, 8, 2)
"""What likeness takes off; the second and the third are copies of each other."""


def _best(scores: list[int]) -> list[int]:
    return sorted(sorted(range(6), key=lambda j: -scores[j])[:3])


BY_MOVEMENT = _best(list(MOVED))
BY_GUM = _best([far - like for far, like in zip(MOVED, LIKE, strict=True)])


def draw() -> Drawing:
    """The method in three pictures."""
    look = [words(108, 16, "reads by its fc row", muted=True)]
    for j in range(6):
        x = 24 + 30 * j
        same = j in (1, 2)
        look += [arrow(x + 9, 30, x + 9, 56), arrow(x + 9, 86, x + 9, 112)]
        look += [channel(x, 62, "kept" if same else "plain", key=KEY, size=18)]
    look += [words(108, 134, "writes by its proj column", muted=True)]

    scored = [rule(8, 118, 208, 118)]
    for j, (far, like) in enumerate(zip(MOVED, LIKE, strict=True)):
        x = 14 + 33 * j
        scored += [score(x, 118, far, key="dense", width=9)]
        scored += [score(x + 11, 118, far - like, key=KEY, width=9)]
    scored += [words(108, 138, "movement | minus likeness", muted=True)]

    goes = []
    for j in range(6):
        x = 22 + 30 * j
        goes += [channel(x, 34, "kept" if j in BY_MOVEMENT else "gone", key="dense", size=20)]
        goes += [channel(x, 96, "kept" if j in BY_GUM else "gone", key=KEY, size=20)]
    goes += [words(108, 22, "by movement", muted=True), words(108, 84, "by GUM", muted=True)]
    goes += [words(108, 138, "little by little, while tuning", muted=True)]
    return drawing(
        "what_matters_llm",
        [
            Stage(
                "looked at: moves, likeness",
                "Each neuron of a feed-forward net: where training moves its weights, and what it "
                "puts out. Filled: two that put out the same.",
                tuple(look),
            ),
            Stage(
                "scored: moved, less alike",
                "A score grows while training moves a neuron away from zero. GUM takes off for "
                "being like the neurons that are kept.",
                tuple(scored),
            ),
            Stage(
                "what goes: the lowest scores",
                "One ranking for all layers. Both copies stay by movement, and by GUM "
                "neither does.",
                tuple(goes),
            ),
        ],
        alt="GUM in three pictures. First, six neurons, each with an arrow in and one out, two "
        "of them filled because they put out the same. Second, two bars for each neuron, its "
        "movement and what is left after likeness is taken off; the two copies fall most. Third, "
        "two rows of six neurons: movement keeps the first three, both copies among them; GUM "
        "keeps the first, the fourth and the fifth.",
        caption="Keep what training pulls away from zero, and not twice. Dark: movement alone; in "
        "colour: with likeness taken off.",
    )
