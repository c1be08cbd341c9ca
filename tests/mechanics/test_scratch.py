"""The shape that pruning found, with fresh weights: how wide the weights are spread."""

import pytest
import torch

from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import RecipeError
from survey_lib.tasks.dense import seeded

KEEP = {"features.0": [1, 6], "features.3": 4}


def test_a_number_keeps_the_first_channels_and_a_list_those_it_names(tiny_task):
    wide = tiny_task.build(seeded(3))
    small = from_scratch(tiny_task, KEEP, generator=seeded(3))
    assert torch.equal(small.features[0].weight, wide.features[0].weight[[1, 6]])
    assert torch.equal(small.features[3].weight, wide.features[3].weight[:4][:, [1, 6]])


def test_drawn_by_their_own_size_small_layers_have_larger_weights(tiny_task):
    """torch draws uniformly within 1 / √fan-in: two of eight inputs, twice the width."""
    dense, own = (
        from_scratch(tiny_task, KEEP, generator=seeded(3), spread=s).features[3].weight
        for s in ("dense", "own")
    )
    assert dense.shape == own.shape
    assert dense.abs().max() <= (9 * 8) ** -0.5 < own.abs().max() <= (9 * 2) ** -0.5


def test_the_generator_alone_decides(tiny_task):
    before = torch.get_rng_state()
    for spread in ("dense", "own"):
        a, b, c = (
            next(from_scratch(tiny_task, KEEP, generator=seeded(s), spread=spread).parameters())
            for s in (1, 1, 2)
        )
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_what_does_not_fit_is_refused(tiny_task):
    with pytest.raises(ValueError, match="no spread 'wide'; use one of dense, own"):
        from_scratch(tiny_task, KEEP, generator=seeded(0), spread="wide")
    with pytest.raises(RecipeError, match="no channel group"):
        from_scratch(tiny_task, {"features.9": 1}, generator=seeded(0))
