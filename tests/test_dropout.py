"""Dropout that takes a few bits a number: its share, its mean, its independence, and where it is used."""

import pytest
import torch
from torch import nn

from models.layers import Dropout, dropout
from tests.small_model import build


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_quick_dropout_drops_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.full((400, 501), 2.0, requires_grad=True)
    out = dropout(x, p, quick=True)
    out.sum().backward()
    dropped = out == 0
    assert dropped.float().mean() == pytest.approx(p, abs=0.005)
    assert out.mean().item() == pytest.approx(2.0 if p < 1 else 0, rel=0.01)
    assert torch.equal(x.grad == 0, dropped), "gradients pass where numbers did"
    kept = out[~dropped]
    assert len(kept) == 0 or kept.unique().tolist() == pytest.approx([2 / (1 - p)], rel=1e-4)


def test_quick_dropout_draws_each_number_by_itself():
    """Numbers that one draw of 64 bits decides are as independent as any others."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(200_000), 0.3, quick=True) > 0).float() - 0.7
    for distance in (1, 2, 3, 4, 8):
        assert (kept[:-distance] * kept[distance:]).mean().abs() < 4 * 0.21 / 200_000**0.5
    torch.manual_seed(0)
    assert torch.equal(kept, (dropout(torch.ones(200_000), 0.3, quick=True) > 0).float() - 0.7), "the seed decides"


def test_every_dropout_of_the_model_can_be_switched():
    model = build(dropout=0.1)
    assert not [module for module in model.modules() if type(module) is nn.Dropout and module.p]
    assert sum(isinstance(module, Dropout) and module.p > 0 for module in model.modules()) > 10
