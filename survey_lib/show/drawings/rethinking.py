"""Rethinking pruning: one shape, three ways to fill it, and what each costs."""

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

KEY = "magnitude"


def draw() -> Drawing:
    """The comparison in three pictures."""
    look = [words(46, 12, "large net", muted=True), words(172, 12, "its shape", muted=True)]
    for row, y in enumerate((22, 64, 106)):
        for i in range(4):
            state = "gone" if (row, i) in {(0, 2), (1, 0), (1, 3), (2, 1)} else "kept"
            look += [channel(4 + 22 * i, y, state, key=KEY, size=18)]
        left = (3, 2, 3)[row]
        look += [channel(128 + 22 * i, y, "plain", key="scratch", size=18) for i in range(left)]
    look += [arrow(98, 74, 120, 74)]

    scored = [words(54, 12, "inherited", muted=True), words(162, 12, "fresh", muted=True)]
    for i, height in enumerate((46, 30, 38)):
        scored += [score(24 + 22 * i, 76, height, key=KEY)]
    for i, height in enumerate((16, -12, 20)):
        scored += [score(132 + 22 * i, 76, height, key="scratch")]
    scored += [rule(14, 76, 96, 76), rule(122, 76, 206, 76)]
    scored += [words(54, 112, "tuned: ¼ E", bold=True), words(162, 112, "E epochs", bold=True)]
    scored += [words(54, 130, "small rate", muted=True), words(162, 130, "or more", muted=True)]

    costs = ((0, 190, KEY, "dense net, E epochs"), (45, 76, "scratch", "Scratch-E: E epochs"),
             (90, 190, "scratch", "Scratch-B: more epochs"))  # fmt: skip
    goes = []
    for y, width, key, label in costs:
        goes += [words(8, y + 12, label, anchor="start")]
        goes += [score(8, y + 34, 14, key=key, width=width)]
    goes += [rule(198, 8, 198, 136, dashed=True), words(196, 148, "same MACs", anchor="end")]
    return drawing(
        "rethinking",
        [
            Stage(
                "looked at: the shape alone",
                "Pruning leaves weights and a list of widths. Take the list, leave the weights.",
                tuple(look),
            ),
            Stage(
                "scored: two beginnings",
                "One net goes on from what the large net learned. The other starts from chance.",
                tuple(scored),
            ),
            Stage(
                "what goes: the old weights",
                "An epoch of the small net is cheap, so Scratch-B gets more of them, until both "
                "have cost the same. If it ends as well, the old weights can go.",
                tuple(goes),
            ),
        ],
        alt="Rethinking pruning in three pictures. First, a net of three layers from which some "
        "channels go, and beside it the same widths, empty. Second, three bars for inherited "
        "weights, tuned for a quarter of the epochs at a small rate, and three for fresh ones, "
        "trained for all epochs or more. Third, three bars for what trainings cost: the dense "
        "net's, Scratch-E's, which is shorter, and Scratch-B's, which ends where the first does.",
        caption="The same shape, filled twice, and an account of what filling it costs. Filled: "
        "trained weights; hollow: only a shape; dashed: gone, and the common budget.",
    )
