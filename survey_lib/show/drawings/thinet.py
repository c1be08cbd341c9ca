"""ThiNet: channels are judged by the sum they make in the next layer."""

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

KEY = "thinet"


def draw() -> Drawing:
    """The method in three pictures."""
    tops = [8, 38, 68, 98]
    look = [layer(8, 0, 44, 126, "layer i", below=True), unit(162, 62, "+", radius=13, key=KEY)]
    look += [words(184, 67, "ŷ", anchor="start"), words(168, 98, "a number of", muted=True)]
    look += [words(168, 114, "layer i+1", muted=True)]
    goes = [layer(8, 0, 44, 126, "layer i", below=True)]
    goes += [layer(158, 0, 44, 126, "layer i+1", below=True)]
    for i, (y, term) in enumerate(zip(tops, "₁₂₃₄", strict=True), 1):
        look += [channel(20, y, "kept", key=KEY, label=str(i))]
        look += [arrow(56, y + 10, 148, 62 + 3 * (i - 2.5), key="muted")]
        look += [words(76, y + (6 if i < 3 else 26), f"x̂{term}")]
        state = "gone" if i < 3 else "kept"
        goes += [channel(20, y, state, key=KEY, label="" if i < 3 else str(i))]
        goes += [channel(170, y, state, key=KEY)]
        if i > 2:
            goes += [arrow(56, y + 10, 154, y + 10, key=KEY), words(104, y + 4, f"× ŵ{term}")]
    scored = [rule(8, 62, 208, 62), words(57, 22, "together 0", muted=True)]
    for i, height in enumerate((20, -20, 34, 48), 1):
        state = "gone" if i < 3 else "plain"
        scored += [score(48 * i - 26, 62, height, state, key=KEY, width=22)]
        scored += [words(48 * i - 15, 126, f"x̂{'₁₂₃₄'[i - 1]}")]
    return drawing(
        "thinet",
        [
            Stage(
                "looked at: the next layer",
                "Each channel adds one term to a number of layer i+1. Some thousand such sums are "
                "sampled.",
                tuple(look),
            ),
            Stage(
                "scored: what the sums lose",
                "One after the other, the channel goes whose term, with those gone before, changes "
                "the sums least. Opposites cancel.",
                tuple(scored),
            ),
            Stage(
                "what goes: filter and slice",
                "The filters and the weights that read them are taken out. Least squares gives the "
                "others a factor.",
                tuple(goes),
            ),
        ],
        alt="ThiNet in three pictures. First, four channels of layer i each send one term into a "
        "sum, a number of layer i plus 1. Second, the four terms as bars: the first two cancel, so "
        "that together they add nothing, and both go. Third, the two filters are taken out of "
        "layer i and their slices out of layer i plus 1; each of the other two gets a factor.",
        caption="A channel is worth what the next layer would miss. Filled: stays; dashed: goes.",
    )
