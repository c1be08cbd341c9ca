"""A closer look: the Fisher signal finds a shape, and the shape is trained anew."""

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


def draw() -> Drawing:
    """The method in three pictures."""
    tops = (12, 42, 72)
    look = [layer(6, 22, 36, 62, "conv"), layer(158, 22, 36, 62, "conv")]
    look += [words(24, 58, "1", muted=True), words(176, 58, "2", muted=True)]
    for i, y in enumerate(tops, 1):
        look += [channel(90, y, "kept", key=KEY, label=str(i))]
        look += [arrow(46, 53, 86, y + 10, key="muted"), arrow(114, y + 7, 154, 50, key="muted")]
        look += [arrow(154, 58, 116, y + 15, key=KEY)]
    look += [words(100, 112, "activation a, forward", muted=True)]
    look += [words(100, 130, "slope ∂L/∂a, backward", muted=True)]

    scored = [words(36, 12, "1", bold=True), words(106, 12, "2", bold=True)]
    scored += [words(176, 12, "3", bold=True)]
    for i, images in enumerate(((-22, 26, 20), (6, 5, 7), (14, -16, 12))):
        x = 10 + 70 * i
        scored += [rule(x - 4, 52, x + 56, 52)]
        scored += [score(x + 18 * j, 52, g, key=KEY, width=13) for j, g in enumerate(images)]
    scored += [words(106, 98, "g of three images each", muted=True)]
    for x, told, state in (
        (36, "Δ large", False),
        (106, "Δ small", True),
        (176, "Δ medium", False),
    ):
        scored += [words(x, 122, told, muted=not state, bold=state)]

    goes = []
    for y, label in ((4, "pruned, tuned"), (76, "same widths, new")):
        goes += [words(150, y + 18, label.split(", ")[0], anchor="middle", muted=True)]
        goes += [words(150, y + 36, label.split(", ")[1], anchor="middle", muted=True)]
        for i in range(3):
            x = 4 + 34 * i
            state = "gone" if i == 1 else ("kept" if y < 50 else "plain")
            key = KEY if y < 50 else "scratch"
            if y > 50 and i == 1:
                continue
            goes += [channel(x, y + 12, state, key=key, size=24)]
    goes += [arrow(52, 50, 52, 78), words(62, 68, "shape only", anchor="start", muted=True)]
    goes += [unit(16, 100, radius=4, key="scratch"), unit(84, 100, radius=4, key="scratch")]
    return drawing(
        "closer_look",
        [
            Stage(
                "looked at: inside a block",
                "Where the second layer reads a channel, training’s own backward pass brings the "
                "slope of the loss.",
                tuple(look),
            ),
            Stage(
                "scored: square, then mean",
                "g is a · ∂L/∂a, added over the channel. Its square, averaged over images, is Δ: "
                "the lowest Δ goes, and training goes on.",
                tuple(scored),
            ),
            Stage(
                "what goes: one at a time",
                "Channels go one at a time. The paper then keeps only the widths, and trains them "
                "from random weights.",
                tuple(goes),
            ),
        ],
        alt="A closer look in three pictures. First, a block of two convolutions with three "
        "channels between them: activations go forward, slopes of the loss come back. Second, "
        "three groups of three bars, g of three images for each channel: the second channel has "
        "small ones, so that its Δ is the smallest and it goes. Third, the pruned net passes "
        "its widths, and not its weights, to a new one.",
        caption="The loss of each image decides; then only the shape is kept. Filled: trained "
        "weights; hollow: random ones; dashed: gone.",
    )
