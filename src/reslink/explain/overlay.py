"""A heat map over the image that it belongs to, so that the anatomy stays in sight."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.explain.display import flat

COLORMAP = "inferno"
CONTOUR = (0, 229, 255)
_OPACITY = 0.72


def overlay(
    grey: NDArray[np.uint8],
    heat: NDArray[np.float32],
    mask: NDArray[np.bool_] | None = None,
    *,
    least: float = 0.0,
) -> NDArray[np.uint8]:
    """Lays a heat map over a grey image: strong evidence is bright and opaque, none leaves the image as it is.

    Args:
        grey: (H, W) uint8, the image as it is shown.
        heat: (H, W) or smaller, of any range; enlarged to the image. Negative values count as none.
        mask: (H, W) bool of a lesion, drawn as a cyan contour, or None.
        least: As in ``unit_range``.

    Returns:
        (H, W, 3) uint8. A flat map gives the grey image.
    """
    strength = unit_range(_fit(heat, grey.shape), least)[..., None]
    base = np.repeat(grey[..., None].astype(np.float32), 3, axis=2)
    colour = colormaps[COLORMAP](strength[..., 0])[..., :3].astype(np.float32) * 255
    opacity = _OPACITY * np.sqrt(strength)
    mixed = base * (1 - opacity) + colour * opacity
    result = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    if mask is not None:
        result[contour(mask)] = CONTOUR
    return result


def unit_range(heat: NDArray[np.float32], least: float = 0.0) -> NDArray[np.float32]:
    """Scales a map for display: its low end (or 0, if it goes below) to 0, its 99.5th percentile to 1; order is kept.

    Args:
        heat: (H, W) of any range; what is not finite counts as the low end.
        least: Differences that are not stretched to the full scale: a map that spans less stays faint, so that gates which
            are nearly equal do not look as if they told something.

    Returns:
        (H, W) float32 in [0, 1]; all 0 for a flat map.
    """
    clean = np.maximum(np.nan_to_num(heat, nan=-np.inf, posinf=-np.inf), 0.0).astype(np.float32)
    if flat(clean):
        return np.zeros_like(clean)
    low, high = float(clean.min()), float(np.percentile(clean, 99.5))
    if high <= low:
        high = float(clean.max())
    return np.asarray(np.clip((clean - low) / max(high - low, least), 0.0, 1.0), dtype=np.float32)


def contour(mask: NDArray[np.bool_], width: int | None = None) -> NDArray[np.bool_]:
    """Returns the rim just outside a mask.

    Args:
        mask: (H, W) bool.
        width: Pixels; without it 1 for each 200 pixels of the longer side.
    """
    steps = width or max(1, round(max(mask.shape) / 200))
    if not mask.any():
        return np.zeros_like(mask)
    return np.asarray(ndimage.binary_dilation(mask, iterations=steps) & ~mask)


def _fit(heat: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if heat.shape == shape:
        return heat
    clean = np.nan_to_num(heat, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    return np.asarray(Picture.fromarray(clean).resize((shape[1], shape[0]), Picture.Resampling.BILINEAR))
