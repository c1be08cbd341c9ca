"""What each operator does with the channel axis of its inputs.

A rule takes a :class:`Call` and returns the operator's result, with labels noted for it. Whatever
meets a labelled tensor and stands in no rule, an operator as well as a single argument of one, is
pinned by :func:`apply`: no label falls. Rules run on shapes; only tensors without labels have
contents.

:func:`follow`, :func:`pin` and :func:`tie` are rules for layers of your own, given to
``trace_groups(…, rules={MyLayer: follow("slope")})``.
"""

from typing import Any

from survey_lib.mechanics.rules.call import Call, Rule, apply, unknown
from survey_lib.mechanics.rules.elements import pointwise
from survey_lib.mechanics.rules.table import ALWAYS, RULES

__all__ = ["ALWAYS", "RULES", "Call", "Rule", "apply", "follow", "pin", "tie", "unknown"]

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
