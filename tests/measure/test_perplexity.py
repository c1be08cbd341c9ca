import math

import pytest
import torch
from torch import nn

from survey_lib.measure.perplexity import POSITIONS, window_losses
from survey_lib.tasks.dense import shipped_net
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import evaluate
from tests.tiny_language import llama, logits, tokens


class Unigram(nn.Module):
    """Token 0 with probability 3/4, token 1 with 1/4, whatever came before."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([math.log(3.0), 0.0]))

    def forward(self, x):
        return self.logits.expand(*x.shape, 2)


def test_by_hand_the_first_token_is_given_and_each_window_stands_alone():
    windows = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 0, 1]])
    often, seldom = -math.log(0.75), -math.log(0.25)
    expected = [often, seldom, (often + seldom) / 2]
    for batch in (1, 2, 5):
        losses = window_losses(Unigram(), windows, batch=batch)
        assert losses.dtype == torch.float64
        assert losses.tolist() == pytest.approx(expected, abs=1e-6)


def test_with_the_splits_targets_it_is_what_evaluate_says():
    task = load_task("char_gpt")
    net = shipped_net("char_gpt")
    split = task.test
    losses = window_losses(net, split.x, targets=split.y, batch=100)
    assert len(losses) == len(split)
    assert float(losses.mean()) == pytest.approx(evaluate(net, task.test, task)["loss"], abs=1e-5)


def test_hugging_face_models_agree_with_a_slow_loop():
    net, windows = llama(), tokens(3, POSITIONS - 1 + 1)
    slow = []
    for window in windows:
        p = logits(net, window[None])[0].double().softmax(-1)
        each = [-math.log(p[t, window[t + 1]]) for t in range(len(window) - 1)]
        slow.append(sum(each) / len(each))
    assert window_losses(net, windows).tolist() == pytest.approx(slow, abs=1e-5)
    longer = llama(max_position_embeddings=256)
    long = tokens(2, 2 * POSITIONS + 5)  # three slices, the last one short
    whole = nn.functional.cross_entropy(
        logits(longer, long)[:, :-1].flatten(0, 1), long[:, 1:].flatten()
    )
    assert float(window_losses(longer, long).mean()) == pytest.approx(float(whole), abs=1e-5)


def test_modes_are_left_as_they_were():
    net = llama().train()
    window_losses(net, tokens())
    assert net.training


def test_windows_of_the_wrong_shape_are_refused():
    for bad in (tokens()[0], tokens(3, 1)):
        with pytest.raises(ValueError, match="need \\(windows, T ≥ 2\\)"):
            window_losses(Unigram(), bad)
    with pytest.raises(ValueError, match="targets"):
        window_losses(Unigram(), tokens(), targets=tokens(2))
