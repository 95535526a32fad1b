"""Networks with a known decision rule: it depends on one patch, or is linear."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from torch import Tensor, nn

PATCH = (slice(40, 56), slice(72, 88))
"""Rows and columns that ``PatchNet`` uses, in a 96×96 image."""


class PatchNet(nn.Module):
    """Scores the mean of one patch of a 96×96 image, through a feature map, and ignores all other pixels."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 12 * 12, classes)
        with torch.no_grad():
            self.features.weight.fill_(1 / (3 * 64))
            self.features.bias.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()
            where = torch.zeros(4, 12, 12)
            where[:, 5:7, 9:11] = 1.0
            self.head.weight[-1] = where.flatten()
            if classes > 1:
                self.head.weight[0] = -where.flatten()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.norm(self.features(x))).flatten(1))
        return logits


class LinearNet(nn.Module):
    """Logits that are linear in the pixels, so that every attribution can be computed by hand."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, 2, 16, 16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight)


@pytest.fixture
def make_patch_net() -> Callable[[int], PatchNet]:
    return lambda classes: PatchNet(classes).eval()


@pytest.fixture
def patch_net() -> PatchNet:
    return PatchNet().eval()


@pytest.fixture
def patch_image() -> Tensor:
    """(2, 3, 96, 96): noise everywhere, a bright spot in the patch of the first image."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(2, 3, 96, 96, generator=generator)
    x[0, :, PATCH[0], PATCH[1]] += 1.0
    return x


@pytest.fixture
def linear_net() -> LinearNet:
    return LinearNet().eval()


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[Bbox, list[tuple[str, Bbox]]]]:
    """The bounding box of each drawn figure, and those of its texts."""
    figures = []

    class Kept(Figure):
        def savefig(self, *_, **__):
            self.draw_without_rendering()  # lays out the texts, without the pixels
            renderer = FigureCanvasAgg(self).get_renderer()
            texts = [text for text in self.findobj(Text) if text.get_text() and text.get_visible()]
            figures.append((self.bbox, [(text.get_text(), text.get_window_extent(renderer)) for text in texts]))

    monkeypatch.setattr("reslink.explain.panel.Figure", Kept)
    return figures
