"""Rules for layers of your own, given to ``trace_groups(…, rules={MyLayer: follow("slope")})``."""

from typing import Any

from survey_lib.mechanics.rules.call import Call, Rule
from survey_lib.mechanics.rules.elements import pointwise

tie: Rule = pointwise
"""Element by element with broadcasting: channels that meet go together."""


def follow(*parameters: str) -> Rule:
    """A layer that treats every channel alike and by itself: its output carries its input's.

    Args:
        parameters: names of its parameters and buffers with one entry for each channel.
    """

    def rule(call: Call) -> Any:
        x = next(t for t in call.tensors if call.net.of(t) is not None)
        labels = call.labels(x)
        assert labels is not None
        for name in parameters:
            call.net.carry((call.net.stack[-1], name), 0, "through", labels.ids)
        return call.give(call.run(), labels)

    return rule


def pin(why: str) -> Rule:
    """A layer of whose inputs no channel may go.

    Args:
        why: the reason, as the group's ``protected`` will say it.
    """

    def rule(call: Call) -> Any:
        for t in call.tensors:
            call.pin(call.labels(t), f"{why} in {call.net.where()}")
        return call.give(call.run(), None)

    return rule
