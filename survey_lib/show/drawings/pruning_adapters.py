"""Pruning adapters: a frozen matrix, a thin correction, and one strike through both."""

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

KEY, FROZEN = "adapters", "oneshot"
ROWS, COLUMNS, PITCH, SIZE = 5, 4, 17, 14


def _tiles(
    x: float, y: float, rows: int, columns: int, key: str, *, row: int = -1, column: int = -1
) -> list[str]:
    """A matrix with its corner at (x, y); one row and one column of it may be gone."""
    return [
        channel(x + PITCH * j, y + PITCH * i, "gone" if i == row or j == column else "kept",
                key=key, size=SIZE)
        for i in range(rows) for j in range(columns)
    ]  # fmt: skip


def _sum(row: int = -1, column: int = -1) -> list[str]:
    """W_s + W_down W_up; an input that goes is a row, an output a column."""
    parts = _tiles(2, 22, ROWS, COLUMNS, FROZEN, row=row, column=column)
    parts += [words(84, 70, "+", bold=True)]
    parts += _tiles(98, 22, ROWS, 1, KEY, row=row)
    parts += [words(126, 34, "·", bold=True)]
    parts += _tiles(140, 22, 1, COLUMNS, KEY, column=column)
    parts += [words(35, 12, "frozen", muted=True), words(156, 12, "learned", muted=True)]
    return parts


def draw() -> Drawing:
    """The method in three pictures."""
    look = [*_sum()]
    look += [words(35, 124, "W", bold=True), words(105, 124, "down", bold=True)]
    look += [words(173, 54, "up", bold=True)]
    look += [words(108, 146, "20 frozen, 9 learned", muted=True)]

    scored = [rule(52, 64, 168, 64)]
    for j, (height, state) in enumerate(((46, "kept"), (32, "kept"), (9, "gone"), (40, "kept"))):
        scored += [score(60 + 27 * j, 64, height, state, key=KEY, width=18)]
    for i in range(3):
        for j in range(COLUMNS):
            x, y = 61 + 27 * j, 74 + PITCH * i
            scored += [score(x, y + SIZE, SIZE, key=FROZEN, width=8)]
            scored += [score(x + 8, y + SIZE, SIZE, key=KEY, width=8)]
    scored += [words(108, 146, "frozen and learned, added", muted=True)]

    goes = [*_sum(row=1, column=2)]
    goes += [arrow(181, 64, 181, 42, key="muted"), words(181, 78, "an output", muted=True)]
    goes += [arrow(144, 98, 118, 52, key="muted"), words(158, 112, "an input", muted=True)]
    goes += [words(108, 146, "12 frozen, 7 learned", muted=True)]
    return drawing(
        "pruning_adapters",
        [
            Stage(
                "looked at: a thin correction",
                "Each layer of the shared net stays as it is. The task learns a narrow column and "
                "a narrow row, whose product is added.",
                tuple(look),
            ),
            Stage(
                "scored: the corrected net",
                "Any criterion will do, but it has to look at the sum: the frozen weights alone "
                "know nothing of the task.",
                tuple(scored),
            ),
            Stage(
                "what goes: one strike",
                "An input that goes takes a row, an output a column: of the frozen matrix and of "
                "the correction alike.",
                tuple(goes),
            ),
        ],
        alt="Pruning adapters in three pictures. First, a frozen matrix of five rows and four "
        "columns, to which the product of a learned column of five and a learned row of four is "
        "added. Second, four bars over the columns of the sum: the third is the lowest. Third, "
        "the second row is struck out of the frozen matrix and of the learned column, and the "
        "third column out of the frozen matrix and of the learned row.",
        caption="Two narrow strips are learned, and both shrink with the matrix. Filled: stays; "
        "dashed: goes; grey-blue: frozen.",
    )
