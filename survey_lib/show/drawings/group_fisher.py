"""Group Fisher pruning: channels that must go together share one switch and one score."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    drawing,
    layer,
    rule,
    score,
    unit,
    words,
)

KEY = "fisher"


def _net(u: str, v: str) -> list[str]:
    """Two channels, the two layers that read them, and the sum of both."""
    parts = [channel(6, 26, u, key=KEY, size=24, label="u" if u != "gone" else "")]
    parts += [channel(6, 80, v, key=KEY, size=24, label="v")]
    for top, name in ((6, "a"), (74, "b")):
        parts += [layer(92, top, 58, 50), words(140, top + 30, name, muted=True)]
        for y, state in ((top + 5, u), (top + 28, v)):
            parts += [channel(98, y, state, key=KEY, size=17)]
            here = 38 if y == top + 5 else 92
            if state != "gone":
                parts += [arrow(32, here, 95, y + 8, key="muted")]
        parts += [arrow(152, top + 25, 178, 58 if top < 50 else 72, key="muted")]
    return [*parts, unit(189, 65, "+", radius=10)]


def draw() -> Drawing:
    """The method in three pictures."""
    look = [*_net("kept", "kept"), words(108, 142, "u has a switch in a and one in b", muted=True)]
    scored = []
    for x, name, slopes in ((10, "u", (34, -34)), (118, "v", (12, 12))):
        scored += [rule(x, 52, x + 84, 52)]
        scored += [score(x + 8 + 36 * i, 52, s, key=KEY, width=22, value="ab"[i])
                   for i, s in enumerate(slopes)]  # fmt: skip
        told = "u: 0² = 0" if name == "u" else "v: 2² = 4"
        scored += [words(x + 42, 118, told, bold=True)]
    scored += [words(108, 142, "÷ memory that is saved", muted=True)]
    goes = [*_net("gone", "kept"), words(108, 142, "u goes from all its layers", muted=True)]
    return drawing(
        "group_fisher",
        [
            Stage(
                "looked at: who reads it",
                "Layers that read the same maps must lose the same channel. Their switches are one "
                "switch with copies.",
                tuple(look),
            ),
            Stage(
                "scored: add, then square",
                "The loss’s slopes at the copies are added for each example, then squared, then "
                "divided by what the removal saves.",
                tuple(scored),
            ),
            Stage(
                "what goes: the whole unit",
                "Every d training steps the unit with the smallest score goes, wherever it is "
                "read.",
                tuple(goes),
            ),
        ],
        alt="Group Fisher pruning in three pictures. First, two channels u and v, each read by two "
        "layers a and b, whose results are added. Second, the slopes of the loss: for u they are "
        "large and opposite, add up to zero and give a score of 0; for v they are small and agree, "
        "and give 4. Third, u is gone from both layers.",
        caption="One switch, one score. Filled: stays; dashed: goes.",
    )
