"""Adaptive activation: weak filters fall to a threshold that steps forward, and back on a miss."""

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    curve,
    drawing,
    rule,
    score,
    unit,
    words,
)

KEY = "adaptive_activation"
MAPS = ((1, 3, 3, 2), (0, 1, 0, 1), (2, 2, 3, 3), (0, 0, 1, 0))
"""Activations of four filters at four places of the mean image, from 0 to 3."""


def draw() -> Drawing:
    """The method in three pictures."""
    look = []
    for i, values in enumerate(MAPS):
        y = 6 + 33 * i
        for j, value in enumerate(values):
            x = 66 + 15 * (j % 2)
            look.append(channel(x, y + 14 * (j // 2), "plain", key="muted", size=12))
            if value:
                look.append(unit(x + 6, y + 14 * (j // 2) + 6, radius=1.3 * value, key=KEY))
        look += [arrow(104, y + 13, 130, y + 13, key="muted")]
        look += [words(138, y + 18, f"{sum(values) / 4:g}", anchor="start", bold=sum(values) > 3)]
    look += [words(44, 72, "maps", anchor="end", muted=True)]
    look += [words(190, 72, "means", muted=True)]

    take = [rule(6, 112, 210, 112), rule(6, 84, 176, 84, dashed=True)]
    take += [words(180, 88, "T", anchor="start", bold=True)]
    for i, values in enumerate(MAPS):
        mean = sum(values) / 4
        state = "gone" if mean < 1 else "kept"
        take += [score(14 + 40 * i, 112, 34 * mean, state, key=KEY, width=20, value=f"{mean:g}")]
    take += [words(108, 138, "then back to epoch k, and train", muted=True)]

    walk = [rule(14, 128, 210, 128), rule(14, 10, 14, 128)]
    at = ((24, 112, True), (62, 88, True), (100, 40, False), (138, 64, False), (176, 76, True))
    walk += [curve([(x, y) for x, y, _ in at], key=KEY, dashed=True)]
    for x, y, good in at:
        walk += [unit(x, y, "✓" if good else "✗", radius=10, key=KEY if good else "muted")]
    walk += [words(20, 18, "T", anchor="start", bold=True), words(206, 144, "rounds", anchor="end",
                                                                  muted=True)]  # fmt: skip
    return drawing(
        "adaptive_activation",
        [
            Stage(
                "looked at: what fires",
                "Images go through the net. What a filter gives behind the ReLU is averaged over "
                "images and over places.",
                tuple(look),
            ),
            Stage(
                "scored: against one threshold",
                "Filters below the threshold fall. The rest goes back to early weights and is "
                "trained again.",
                tuple(take),
            ),
            Stage(
                "what goes: what a limit lets",
                "Limit kept: a step forward. Limit broken: back to a good round, and on by half a "
                "step, then a quarter.",
                tuple(walk),
            ),
        ],
        alt="Adaptive activation-based pruning in three pictures. First, four filters and their "
        "activations at four places, whose means are 2.25, 0.5, 2.5 and 0.25. Second, these means "
        "as bars beside a threshold of 1: the two below it go, the others return to epoch k and "
        "train. Third, the threshold over five rounds: it rises twice, oversteps, and comes back "
        "by smaller steps until a round keeps the limit.",
        caption="The user names a limit, the threshold finds its place. Ticks: rounds that kept "
        "the limit; crosses: rounds that broke it and were taken back.",
    )
