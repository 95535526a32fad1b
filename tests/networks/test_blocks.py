"""Residual blocks, stem and context."""

from __future__ import annotations

import torch
from torch import nn

from reslink.networks.blocks import Context, ResidualBlock, Stem


def test_zeroed_residual_branches_leave_the_shortcut() -> None:
    torch.random.default_generator.manual_seed(0)
    same = ResidualBlock(8, 8, drop_rate=0.3)
    nn.init.zeros_(same.norm.weight)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(same(x), x)
    wider = ResidualBlock(8, 12)
    nn.init.zeros_(wider.norm.weight)
    torch.testing.assert_close(wider(x), wider.shortcut(x))
    broken = ResidualBlock(8, 8, residual=False)
    nn.init.zeros_(broken.norm.weight)
    assert broken(x).abs().sum() == 0


def test_stem_orders_agree_if_the_norm_is_monotonic() -> None:
    torch.random.default_generator.manual_seed(0)
    paper, fast = Stem(3, 8, "norm_first").eval(), Stem(3, 8, "pool_first").eval()
    fast.load_state_dict(paper.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(paper(x), fast(x))


def test_context_keeps_odd_sizes_and_adds_to_its_input() -> None:
    torch.random.default_generator.manual_seed(0)
    context = Context(8, 12).eval()
    x = torch.randn(2, 8, 7, 9)
    assert context(x).shape == x.shape
    assert not torch.equal(context(x), x)
    nn.init.zeros_(context.norm.weight)
    torch.testing.assert_close(context(x), x)
