"""Gradual magnitude pruning: the smallest weights of a layer hide behind a mask that grows."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    curve,
    drawing,
    rule,
    score,
    unit,
    weight,
    words,
)

KEY = "magnitude"
SIZES = (4.5, 0.8, 2.2, 1.2, 5.0, 0.6, 3.0, 1.8, 3.8)
"""Thickness of the nine weights, from the first input to the first output and on."""


def draw() -> Drawing:
    """The method in three pictures."""
    heights = (22, 64, 106)
    ends = [(a, b) for a in heights for b in heights]
    look = [weight(44, a, 172, b, s, key=KEY) for (a, b), s in zip(ends, SIZES, strict=True)]
    look += [unit(x, y) for x in (44, 172) for y in heights]
    look += [words(108, 140, "one layer, in training", muted=True)]

    scored = [rule(8, 112, 208, 112)]
    small = sorted(range(9), key=SIZES.__getitem__)
    for place, i in enumerate(small):
        state = "gone" if place < 5 else "plain"
        scored += [score(12 + 21.5 * place, 112, 19 * SIZES[i], state, key=KEY, width=14)]
    scored += [rule(117.5, 10, 117.5, 120, dashed=True), words(108, 140, "size |w|", muted=True)]
    scored += [
        words(62, 56, "masked", muted=True),
        words(124, 22, "left", anchor="start", muted=True),
    ]

    law = [(i / 20, 1 - (1 - i / 20) ** 3) for i in range(21)]
    goes = [rule(24, 4, 24, 112), rule(24, 112, 208, 112)]
    goes += [curve([(24 + 110 * t, 112 - 92 * s) for t, s in law], key=KEY)]
    goes += [curve([(134, 20), (204, 20)], key=KEY)]
    for step in range(6):
        t, s = law[4 * step]
        goes += [unit(24 + 110 * t, 112 - 92 * s, radius=3.5, key=KEY)]
    goes += [words(30, 12, "share masked", anchor="start", muted=True)]
    goes += [
        words(116, 140, "training steps", muted=True),
        words(170, 42, "masks stay", muted=True),
    ]
    goes += [words(208, 84, "w may return", anchor="end", muted=True)]
    return drawing(
        "to_prune_or_not",
        [
            Stage(
                "looked at: the weights",
                "Every Δt training steps the weights of each layer are compared with one another. "
                "No data is needed for it.",
                tuple(look),
            ),
            Stage(
                "scored: by size alone",
                "The smallest of the layer go behind the mask, as many as the schedule asks for.",
                tuple(scored),
            ),
            Stage(
                "what goes: single weights",
                "Fast at first, slowly at the end. A masked weight keeps its value and returns "
                "when a survivor shrinks below it.",
                tuple(goes),
            ),
        ],
        alt="Gradual magnitude pruning in three pictures. First, nine weights of one layer, drawn "
        "as lines as thick as they are large. Second, the same weights as bars in order of size: "
        "the five smallest are masked. Third, the share of masked weights against the training "
        "steps: a curve that rises fast at first and slowly at the end, and then stays.",
        caption="The mask grows while the net trains. Filled: stays; dashed: masked.",
    )
