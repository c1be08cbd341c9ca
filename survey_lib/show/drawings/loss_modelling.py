"""Loss models: what the slope and the bend at the present weights say about removing one."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    curve,
    drawing,
    rule,
    unit,
    words,
)

KEY = "loss_models"


def draw() -> Drawing:
    """The method in three pictures."""
    at = [(i / 30, 118 - (0.28 + 2.4 * (i / 30 - 0.62) ** 2) * 82) for i in range(31)]
    here = at[24]
    look = [rule(14, 122, 208, 122), curve([(14 + 190 * t, y) for t, y in at], key="ink")]
    look += [unit(14 + 190 * here[0], here[1], radius=5, key=KEY)]
    look += [words(14 + 190 * here[0] + 2, here[1] - 12, "here", muted=True)]
    look += [arrow(14 + 190 * here[0], 108, 20, 108, key=KEY)]
    look += [words(50, 102, "Δθ = −θ", muted=True), words(18, 138, "0", muted=True)]
    look += [words(14 + 190 * here[0], 138, "θ", muted=True), words(60, 18, "loss", muted=True)]

    slope = 2 * 2.4 * (here[0] - 0.62) * -82
    bend = 2.4 * -82 * 0.8
    line = [(t, here[1] + slope * (t - here[0])) for t in (0.0, 0.95)]
    bow = [(t, here[1] + slope * (t - here[0]) + bend * (t - here[0]) ** 2)
           for t in (i / 20 * 0.95 for i in range(20))]  # fmt: skip
    scored = [rule(14, 122, 208, 122), rule(14, 8, 14, 122, dashed=True)]
    scored += [curve([(14 + 190 * t, min(y, 122)) for t, y in line], key="muted", dashed=True)]
    scored += [curve([(14 + 190 * t, y) for t, y in bow if y > 0], key=KEY)]
    scored += [unit(14 + 190 * here[0], here[1], radius=5, key=KEY)]
    scored += [words(66, 30, "line + bend (QM)", anchor="start")]
    scored += [words(208, 116, "line alone (LM)", anchor="end", muted=True)]
    scored += [words(18, 138, "0", muted=True), words(14 + 190 * here[0], 138, "θ", muted=True)]

    goes = []
    for i, left in enumerate((9, 5, 2)):
        for j in range(9):
            x, y = 2 + 76 * i + 18 * (j % 3), 22 + 18 * (j // 3)
            kept = (4 * j) % 9 < left
            goes += [channel(x, y, "kept" if kept else "gone", key=KEY, size=14)]
        if i:
            goes += [arrow(76 * i - 19, 48, 76 * i - 3, 48)]
        goes += [words(28 + 76 * i, 98, f"step {i + 1}" if i < 2 else "step π", muted=True)]
    goes += [words(108, 124, "scores made anew each time", muted=True)]
    return drawing(
        "loss_modelling",
        [
            Stage(
                "looked at: the loss around",
                "Removing a weight moves it by −θ. What that costs is a question to the loss near "
                "the present weights.",
                tuple(look),
            ),
            Stage(
                "scored: a model’s forecast",
                "The slope alone, the bend alone, or both, followed to zero. The size of the "
                "predicted change is the score.",
                tuple(scored),
            ),
            Stage(
                "what goes: single weights",
                "A few go, then slope and bend are looked up again, π times. Models hold nearby "
                "only.",
                tuple(goes),
            ),
        ],
        alt="Loss models in three pictures. First, a curve of the loss over one weight, the net "
        "beside the bottom, and an arrow from the weight’s value to zero. Second, two models of "
        "the curve from where the net stands, a straight line and a parabola, followed to zero. "
        "Third, a grid of nine weights that loses four and then three more, with new scores "
        "each time.",
        caption="Look, remove a little, look again. Filled: stays; dashed: goes.",
    )
