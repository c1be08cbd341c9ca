"""Parameterized structured pruning: a factor for each structure, pulled down while it trains."""

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

KEY = "psp"
COLUMNS = 5
OFF = (1, 3)
"""Columns whose factor ends below the threshold."""


def _matrix(x: float, y: float, *, cut: bool) -> list[str]:
    """A weight matrix of four rows; ``cut`` shows the columns that go."""
    size, step = 18, 22
    tiles = []
    for i in range(COLUMNS):
        state = "plain" if not cut else "gone" if i in OFF else "kept"
        tiles += [channel(x + step * i, y + step * row, state, key=KEY, size=size)
                  for row in range(4)]  # fmt: skip
    return tiles


def draw() -> Drawing:
    """The method in three pictures."""
    look = _matrix(54, 46, cut=False)
    for i in range(COLUMNS):
        x = 63 + 22 * i
        look += [words(x, 20, f"α{'₁₂₃₄₅'[i]}", bold=True), arrow(x, 25, x, 42, key=KEY)]
    look += [words(46, 86, "filters", anchor="end", muted=True)]
    look += [words(108, 148, "one column for each input", muted=True)]

    scored = [rule(16, 122, 206, 122), rule(16, 101, 198, 101, dashed=True)]
    scored += [words(212, 105, "ε", anchor="end")]
    for i, height in enumerate((64, 11, 78, 7, 52)):
        x = 24 + 35 * i
        state = "gone" if i in OFF else "plain"
        scored += [score(x, 122, height, state, key=KEY, width=16)]
        scored += [arrow(x + 25, 62, x + 25, 80, key="muted")]
        if i not in OFF:
            scored += [arrow(x + 8, 40, x + 8, 24, key=KEY)]
        scored += [words(x + 8, 140, f"α{'₁₂₃₄₅'[i]}")]
    scored += [words(16, 12, "data ↑   decay ↓", anchor="start", muted=True)]

    goes = _matrix(54, 22, cut=True)
    for i in range(COLUMNS):
        goes += [words(63 + 22 * i, 14, "0" if i in OFF else "ν", bold=i not in OFF)]
    goes += [words(108, 130, "q = ν w stays,", muted=True)]
    goes += [words(108, 146, "patches shrink as well", muted=True)]
    return drawing(
        "parameterized_structured",
        [
            Stage(
                "looked at: a number each",
                "Every column of a layer’s weight matrix gets one trainable factor. So may "
                "channels, filters, whole layers.",
                tuple(look),
            ),
            Stage(
                "scored: data against decay",
                "Weight decay pulls all factors down; the gradient lifts those that are needed. "
                "Below ε one counts as zero.",
                tuple(scored),
            ),
            Stage(
                "what goes: zero columns",
                "Off, a column still feels its gradient and may come back. In the end q = ν w is "
                "the weight, and zero columns go.",
                tuple(goes),
            ),
        ],
        alt="Parameterized structured pruning in three pictures. First, a weight matrix of four "
        "filters and five columns, with a factor alpha above each column. Second, the sizes of the "
        "five factors as bars with the threshold epsilon: decay pulls down on all of them, the "
        "data lift three, and two end below the threshold. Third, the matrix without these two; "
        "the other columns are multiplied by their factors.",
        caption="What training cannot do without, it holds up against the decay. Filled: stays; "
        "dashed: below the threshold, goes.",
    )
