"""Pruning by explaining: credit for the answer is handed back, and who gets none goes."""

import itertools

from survey_lib.show.drawing import (
    Drawing,
    Stage,
    arrow,
    channel,
    drawing,
    rule,
    score,
    unit,
    words,
)

KEY = "lrp"


def draw() -> Drawing:
    """The method in three pictures."""
    columns = ((22, (38, 98)), (108, (22, 68, 114)), (194, (38, 98)))
    look = []
    for (x1, ys1), (x2, ys2) in itertools.pairwise(columns):
        look += [arrow(x1 + 11, a, x2 - 12, b, key="muted", head=5) for a in ys1 for b in ys2]
    look += [unit(x, y, radius=9) for x, ys in columns for y in ys]
    look += [unit(194, 38, "y", radius=9, key=KEY)]
    look += [words(22, 142, "image", muted=True), words(194, 142, "classes", muted=True)]
    look += [words(108, 142, "filters", muted=True)]

    back = []
    for y, share, told in ((22, 3.4, "0.7"), (68, 1.6, "0.3"), (114, 0.0, "0")):
        if share:
            back += [arrow(180, 42, 122, y, key=KEY)]
        else:
            back += [rule(180, 46, 124, y - 4, dashed=True)]
        back += [unit(108, y, radius=9, key=KEY if share else "muted")]
        back += [words(92, y + 5, told, anchor="end", bold=bool(share), muted=not share)]
    back += [unit(194, 38, "1", radius=9, key=KEY)]
    back += [arrow(78, 22, 34, 40, key=KEY), arrow(78, 66, 34, 94, key=KEY)]
    back += [unit(22, 38, radius=9, key=KEY), unit(22, 98, radius=9, key=KEY)]
    back += [words(22, 24, "0.4", bold=True), words(22, 122, "0.6", bold=True)]
    back += [words(168, 142, "each column: 1", anchor="middle", muted=True)]

    goes = [rule(4, 92, 212, 92)]
    for i, (height, state) in enumerate(((62, "kept"), (30, "kept"), (4, "gone"), (44, "kept"),
                                         (7, "gone"))):  # fmt: skip
        x = 14 + 40 * i
        goes += [score(x, 92, height, state, key=KEY, width=20)]
        goes += [channel(x, 102, state, key=KEY)]
    goes += [words(108, 142, "added over all images", muted=True)]
    return drawing(
        "pruning_by_explaining",
        [
            Stage(
                "looked at: a few images",
                "A few images of each class go through the net. The question is what the true "
                "class rests on.",
                tuple(look),
            ),
            Stage(
                "scored: credit, handed back",
                "Each neuron hands what it received to those that fed it, in proportion to what "
                "they contributed. Nothing is lost.",
                tuple(back),
            ),
            Stage(
                "what goes: the least credited",
                "One ranking over all layers. The lowest go, and credit is handed out anew.",
                tuple(goes),
            ),
        ],
        alt="Pruning by explaining in three pictures. First, a net of two inputs, three filters "
        "and two classes, one of them the true one. Second, one unit of credit at the true class "
        "is shared by the filters, seven tenths, three tenths and nothing, and then by the inputs; "
        "each column sums to one. Third, five bars of credit added over all images: the two lowest "
        "filters go.",
        caption="Who gets no credit for the answer is not missed. Filled: stays; dashed: goes.",
    )
