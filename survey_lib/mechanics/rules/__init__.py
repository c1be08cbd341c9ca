"""What each operator does with the channel axis of its inputs.

A rule takes a call (:mod:`survey_lib.mechanics.rules.call`) and returns the operator's result, with
labels noted for it. Whatever meets a labelled tensor and stands in no rule, an operator as well as
a single argument of one, is pinned: no label falls. Rules run on shapes; only tensors without
labels have contents. :mod:`survey_lib.mechanics.rules.table` holds them all; rules for layers of
one's own are in :mod:`survey_lib.mechanics.rules.own`.
"""
