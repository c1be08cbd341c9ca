"""LLM.int8(): a few columns of the input are multiplied in 16 bits, all others in 8."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    channel,
    drawing,
    rule,
    score,
    words,
)

KEY, WIDE = "int8", "ink"
COLUMNS = (14, 10, 92, 17, 8, 12)
"""Largest value of each of the six features; the third is the outlier."""


def _grid(x: float, y: float, columns: str, rows: int, size: float = 15) -> list[str]:
    """Cells of a matrix; ``columns`` says for each whether it is filled (16 bits) or not."""
    return [
        channel(x + j * (size + 2), y + i * (size + 2), "kept" if c == "#" else "plain",
                key=WIDE if c == "#" else KEY, size=size)
        for j, c in enumerate(columns) for i in range(rows)
    ]  # fmt: skip


def draw() -> Drawing:
    """The method in three pictures."""
    look = [*_grid(26, 26, "..#...", 3), words(76, 14, "X: features →", muted=True)]
    look += [words(12, 55, "↓", muted=True), words(78, 98, "tokens of one call", muted=True)]
    look += [words(147, 55, "·"), *_grid(160, 4, "...", 2), *_grid(160, 38, "###", 1)]
    look += [*_grid(160, 55, "...", 3), words(185, 124, "W", muted=True)]

    scored = [rule(8, 118, 208, 118), rule(8, 62, 208, 62, dashed=True)]
    scored += [words(204, 56, "α = 6", anchor="end", muted=True)]
    for j, height in enumerate(COLUMNS):
        key = WIDE if j == 2 else KEY
        scored += [score(16 + 33 * j, 118, height, key=key, width=20)]
    scored += [words(108, 138, "largest |X| of each feature", muted=True)]

    goes = [*_grid(4, 6, "#", 3), words(32, 34, "·"), *_grid(40, 23, "###", 1)]
    goes += [words(150, 34, "in 16 bits", muted=True), words(8, 78, "+", bold=True)]
    goes += [*_grid(20, 72, ".....", 3, 11), words(92, 96, "·"), *_grid(100, 60, "...", 5, 11)]
    goes += [words(180, 96, "in int8", muted=True)]
    return drawing(
        "llm_int8",
        [
            Stage(
                "looked at: input columns",
                "At each call anew, a linear layer looks at the hidden states it is given: tokens "
                "by features.",
                tuple(look),
            ),
            Stage(
                "scored: by the largest value",
                "A feature that reaches α in any token is an outlier. A handful are, and each "
                "would coarsen the grid of all others.",
                tuple(scored),
            ),
            Stage(
                "what goes: nothing",
                "Outlier columns meet their rows of W in 16 bits, all others in 8. The two results "
                "are added.",
                tuple(goes),
            ),
        ],
        alt="LLM.int8() in three pictures. First, a matrix X of three tokens and six features with "
        "one filled column, and the row of W that this column meets. Second, the largest value "
        "of each feature as bars: one of six reaches the threshold alpha. Third, the filled "
        "column times its row in 16 bits, plus the other five columns times theirs in int8.",
        caption="Split by feature, multiply apart, add. Filled: 16 bits; framed: 8 bits.",
    )
