"""SeReNe and LOBSTER: what nobody would miss shrinks; then zeros stay singly or in whole rows."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    drawing,
    rule,
    score,
    unit,
    weight,
    words,
)

SINGLE, ROWS = "lobster", "serene"
TILE = 15
SCATTERED = ("#.#..", ".#..#", "#..##", ".##.#")
WHOLE = ("#####", ".....", "#####", ".....")


def _matrix(x: float, y: float, rows: tuple[str, ...], key: str) -> list[str]:
    """Weights of four neurons: filled where one is left, crossed where it is zero."""
    return [
        channel(x + TILE * j, y + TILE * i, "kept" if mark == "#" else "gone", key=key,
                size=TILE - 3)
        for i, row in enumerate(rows)
        for j, mark in enumerate(row)
    ]  # fmt: skip


def draw() -> Drawing:
    """The methods in three pictures."""
    heights = (24, 62, 100)
    look = [weight(30, y, 102, 62, 1.5 + i, key=SINGLE) for i, y in enumerate(heights)]
    look += [unit(30, y) for y in heights]
    look += [unit(110, 62, "p", radius=11, key=ROWS)]
    look += [weight(121, 62, 180, y) for y in heights]
    look += [unit(188, y, "y" if y == 62 else "", key="muted") for y in heights]
    look += [words(52, 132, "∂L/∂w", fill="", muted=True), words(150, 132, "∂y/∂p", muted=True)]

    scored = [rule(6, 104, 210, 104)]
    sizes = (62, 44, 74, 30)
    left = (1.0, 0.55, 1.0, 0.35)
    for i, (size, stays) in enumerate(zip(sizes, left, strict=True)):
        x = 14 + 50 * i
        scored += [score(x, 104, size, "gone", width=16)]
        scored += [score(x + 18, 104, size * stays, key=ROWS, width=16)]
        scored += [words(x + 17, 120, ("S ≥ 1", "S = 0", "S ≥ 1", "S = 0")[i], muted=True)]
    scored += [words(108, 141, "size of w, before and after", muted=True)]

    goes = _matrix(8, 14, SCATTERED, SINGLE)
    goes += _matrix(132, 14, WHOLE, ROWS)
    goes += [arrow(45, 80, 45, 98, key=SINGLE), arrow(169, 80, 169, 98, key=ROWS)]
    goes += [score(8, 122, 16, key=SINGLE, width=74), score(150, 122, 16, key=ROWS, width=38)]
    goes += [words(45, 141, "LOBSTER", muted=True), words(169, 141, "SeReNe", muted=True)]
    goes += [words(107, 118, "bytes", muted=True)]
    return drawing(
        "role_of_structured",
        [
            Stage(
                "looked at: sensitivity",
                "LOBSTER asks how the loss reacts to one weight. SeReNe asks how all outputs react "
                "to one neuron.",
                tuple(look),
            ),
            Stage(
                "scored: insensitive shrinks",
                "After each step of the training a weight loses the share λ(1 − S), and nothing "
                "where S is 1 or more.",
                tuple(scored),
            ),
            Stage(
                "what goes: weights or rows",
                "What is below a threshold is zeroed. LOBSTER keeps each zero, SeReNe those of "
                "empty rows. Then the file is coded.",
                tuple(goes),
            ),
        ],
        alt="SeReNe and LOBSTER in three pictures. First, a neuron between three inputs and three "
        "outputs: one method looks at the derivative of the loss by a weight, the other at that of "
        "the outputs by the neuron. Second, four weights as pairs of bars, before and after: "
        "sensitive ones keep their size, the others shrink. Third, two weight matrices with ten "
        "zeros each, scattered in one, in whole rows in the other, and below each the bytes of "
        "its file: fewer for whole rows.",
        caption="What the net is not sensitive to shrinks, and what is small goes. The paper asks "
        "what zeros in rows are worth. Filled: a weight that is left; crossed: zero.",
    )
