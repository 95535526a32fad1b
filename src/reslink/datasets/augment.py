"""Training images varied as scanners, patients and readers vary them; on tensors, for CT and MR.

Own torch operations, not ``kornia.augmentation`` (0.9.0): its brightness and noise lift the black background (0 becomes
0.10 and 0.03 at the settings below), and it draws from the global random state. Its speed is no reason: flip, affine,
brightness, contrast, gamma and noise take 2.0 ms an image of 224×224 with kornia and 1.3 ms here (CPU time, medians of
20 interleaved runs of 32 images on one thread of a busy machine).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from reslink.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_EDGE = 0.05
_WORST_RESOLUTION = 0.5
_ERASED = (0.02, 0.1)


class AugmentSettings(BaseModel):
    """How training images are varied; each image is drawn anew, evenly within the ranges.

    Attributes:
        enabled: Whether anything is done at all.
        flip: Probability of a left-right mirroring.
        vertical_flip: Probability of a top-bottom mirroring; a head does not lie so in a scanner, hence 0.
        rotation: Largest turn to either side in degrees, 0 to 180.
        scale: Largest change of size: 0.1 is 0.9 to 1.1 times, 0 to 0.5.
        translation: Largest shift along each axis as a share of the side, 0 to 0.5.
        brightness: Largest shift of the grey values, 0 to 0.5 of the range from black to white.
        contrast: Largest change of contrast about the mean of the head: 0.2 is 0.8 to 1.2 times, 0 to 0.9.
        gamma: Largest change of the exponent of the grey values: 0.2 is 1/1.2 to 1.2, 0 to 2.
        noise: Largest standard deviation of Gaussian noise, 0 to 0.5 of the range.
        resolution_drop: Probability that an image is drawn at half to full resolution and enlarged again.
        bias_field: Largest exponent of a smooth gain across the image, as of MR coils; 0 to 1, for CT 0.
        erase: Probability that a rectangle of 2 to 10 % of the image is set to black. It can hide a lesion whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: bool = True
    flip: Share = 0.5
    vertical_flip: Share = 0.0
    rotation: Annotated[float, Field(ge=0, le=180)] = 8.0
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    translation: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    brightness: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    gamma: Annotated[float, Field(ge=0, le=2)] = 0.12
    noise: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    resolution_drop: Share = 0.0
    bias_field: Share = 0.0
    erase: Share = 0.0


class Augment:
    """Varies a batch; the same generator state gives the same batch.

    Args:
        settings: What is varied and how far.
    """

    def __init__(self, settings: AugmentSettings) -> None:
        self.settings = settings

    def __call__(self, x: Tensor, generator: torch.Generator, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Varies each image of a batch by itself.

        What is black stays black: no background is lifted, and what comes in from outside is black.

        Args:
            x: (B, C, H, W) floats in 0..1, before the normalisation; best before one plane is repeated to the channels.
                Not changed.
            generator: A CPU generator, from which all randomness comes.
            masks: (B, M, H', W') masks that move with the images, at any resolution; any dtype, also bool.

        Returns:
            The images, in 0..1, and the masks in their own dtype.

        Raises:
            UsageError: If the images are not such a tensor.
        """
        _check(x, masks)
        if not self.settings.enabled:
            return x, masks
        x, masks = self._moved(x, generator, masks)
        x = self._coarsened(x, generator)
        x = self._toned(x, generator)
        return self._erased(x, generator), masks

    def _moved(self, x: Tensor, generator: torch.Generator, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One affine resampling for flip, rotation, scale and shift."""
        s = self.settings
        if not (s.flip or s.vertical_flip or s.rotation or s.scale or s.translation):
            return x, masks
        theta = self._affine(len(x), x.shape[-1] / x.shape[-2], generator).to(x)
        if masks is None:
            return _warp(x, theta, "bilinear"), None
        return _warp(x, theta, "bilinear"), _warp(masks.to(x.dtype), theta, "nearest").to(masks.dtype)

    def _affine(self, n: int, aspect: float, generator: torch.Generator) -> Tensor:
        """(n, 2, 3) maps from the new image to the old one, in coordinates from -1 to 1.

        Args:
            n: Number of images.
            aspect: Width over height; a turn is one of pixels, not of these coordinates.
            generator: Source of randomness.
        """
        s = self.settings
        angle = _within(n, math.radians(s.rotation), generator)
        zoom = 1 / (1 + _within(n, s.scale, generator))
        mirror_x = 1 - 2 * _chosen(n, s.flip, generator).float()
        mirror_y = 1 - 2 * _chosen(n, s.vertical_flip, generator).float()
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        shift = 2 * torch.stack([_within(n, s.translation, generator) for _ in range(2)], dim=1)
        rows = torch.stack([cos * mirror_x, -sin * mirror_y / aspect, sin * mirror_x * aspect, cos * mirror_y], dim=1)
        return torch.cat([rows.view(n, 2, 2), shift[:, :, None]], dim=2)

    def _coarsened(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Takes detail from some images, all of a batch by the same factor."""
        if not self.settings.resolution_drop:
            return x
        chosen = _chosen(len(x), self.settings.resolution_drop, generator)
        factor = float(torch.empty(1).uniform_(_WORST_RESOLUTION, 1, generator=generator))
        if not chosen.any():
            return x
        rows = chosen.nonzero()[:, 0].to(x.device)
        small = [max(1, round(side * factor)) for side in x.shape[-2:]]
        coarse = F.interpolate(x[rows], size=small, mode="bilinear", antialias=True)
        return x.index_copy(0, rows, F.interpolate(coarse, size=x.shape[-2:], mode="bilinear").clamp_(0, 1))

    def _toned(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Gain field, gamma, contrast, brightness and noise, all faded out towards black."""
        s, n = self.settings, len(x)
        if s.bias_field:
            x = x * _gain(x, s.bias_field, generator)
        if s.gamma:
            x = x.clamp(0, 1).pow_(_column(_within(n, math.log1p(s.gamma), generator).exp(), x))
        if not (s.contrast or s.brightness or s.noise):
            return x.clamp(0, 1)
        contrast = _column(_within(n, s.contrast, generator), x)
        brightness = _column(_within(n, s.brightness, generator), x)
        inside = (x * (1 / _EDGE)).clamp_(0, 1)
        mean = (x * inside).sum((1, 2, 3), keepdim=True) / inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
        change = (x - mean).mul_(contrast).add_(brightness)
        if s.noise:
            change.addcmul_(_normal(x, generator), _column(torch.rand(n, generator=generator) * s.noise, x))
        return change.mul_(inside).add_(x).clamp_(0, 1)

    def _erased(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Sets a rectangle of some images to black."""
        if not self.settings.erase:
            return x
        n = len(x)
        chosen = _chosen(n, self.settings.erase, generator)
        area, log_ratio, y, x0 = torch.rand(4, n, generator=generator)
        area = _ERASED[0] + (_ERASED[1] - _ERASED[0]) * area
        ratio = (log_ratio - 0.5).exp()
        inside_y = _span(x.shape[-2], (area * ratio).sqrt(), y)
        inside_x = _span(x.shape[-1], (area / ratio).sqrt(), x0)
        gone = inside_y[:, None, :, None] & inside_x[:, None, None, :] & chosen[:, None, None, None]
        return x.masked_fill(gone.to(x.device), 0)


def _check(x: Tensor, masks: Tensor | None) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise UsageError(
            f"Images of the shape {tuple(x.shape)} and type {x.dtype} were given to the augmentation",
            "It takes floats of the shape (B, C, H, W) in 0..1",
            "Divide the cached pixels by 255",
        )
    if masks is not None and (masks.ndim != 4 or len(masks) != len(x)):
        raise UsageError(
            f"Masks of the shape {tuple(masks.shape)} were given for {len(x)} images",
            "Masks have the shape (B, M, H, W)",
            "Give each image its masks",
        )


def _within(n: int, limit: float, generator: torch.Generator) -> Tensor:
    """(n,) numbers between -limit and limit."""
    return (torch.rand(n, generator=generator) * 2 - 1) * limit


def _chosen(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """(n,) booleans that are true with a probability."""
    return torch.rand(n, generator=generator) < probability


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(n,) values as (n, 1, 1, 1) on the device of the images."""
    return values.to(like)[:, None, None, None]


def _warp(x: Tensor, theta: Tensor, mode: str) -> Tensor:
    return F.grid_sample(x, _grid(theta, x), mode=mode, padding_mode="zeros", align_corners=False)


def _grid(theta: Tensor, x: Tensor) -> Tensor:
    """(B, H, W, 2): what ``F.affine_grid`` returns, as a sum of a row and a column term and so without its product."""
    height, width = x.shape[-2:]
    across = (torch.arange(width).to(theta) * 2 + 1) / width - 1
    down = (torch.arange(height).to(theta) * 2 + 1) / height - 1
    row = theta[:, None, :, 0] * across[:, None] + theta[:, None, :, 2]
    column = theta[:, None, :, 1] * down[:, None]
    return row[:, None, :, :] + column[:, :, None, :]


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise like the images, made on their device from a seed of the CPU generator."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own = torch.Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=own, device=x.device, dtype=x.dtype)


def _gain(x: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) gain exp(f), f a random polynomial of degree two whose absolute value stays below ``largest``."""
    rows = torch.linspace(-1, 1, x.shape[-2])[:, None].expand(x.shape[-2:])
    columns = torch.linspace(-1, 1, x.shape[-1])[None, :].expand(x.shape[-2:])
    basis = torch.stack([rows, columns, rows * columns, rows**2, columns**2])
    weights = torch.stack([_within(len(basis), largest, generator) for _ in range(len(x))]) / len(basis)
    return torch.einsum("bk,khw->bhw", weights, basis).exp_()[:, None].to(x)


def _span(size: int, length: Tensor, place: Tensor) -> Tensor:
    """(n, size) booleans: an interval of a length (share of the size) that lies inside as ``place`` (0..1) says."""
    where = (torch.arange(size) + 0.5) / size
    start = place * (1 - length)
    return (where >= start[:, None]) & (where < (start + length)[:, None])
