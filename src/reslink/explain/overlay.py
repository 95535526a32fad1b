"""Heat maps and lesion contours drawn over an image."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.explain.display import is_flat

COLORMAP = "inferno"
CONTOUR = (0, 229, 255)
_OPACITY = 0.72


def overlay(
    gray: NDArray[np.uint8],
    heat: NDArray[np.float32],
    mask: NDArray[np.bool_] | None = None,
    *,
    min_span: float = 0.0,
    visible: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Draws a heat map over a gray image. High values are bright and opaque; the image stays visible where the map is low.

    Args:
        gray: (H, W) uint8, the displayed image.
        heat: (H, W) or smaller, of any range; resized to the image. Negative values count as 0.
        mask: (H, W) bool lesion mask, drawn as a cyan contour, or None.
        min_span: As in ``unit_range``.
        visible: (H, W) bool, the only pixels that are colored; None for all. If none is True, all are.

    Returns:
        (H, W, 3) uint8. A constant map gives the gray image.
    """
    resized = _resize(heat, gray.shape)
    if visible is not None and visible.any():
        resized = np.where(visible, resized, 0).astype(np.float32)
    strength = unit_range(resized, min_span)[..., None]
    base = np.repeat(gray[..., None].astype(np.float32), 3, axis=2)
    color = colormaps[COLORMAP](strength[..., 0])[..., :3].astype(np.float32) * 255
    opacity = _OPACITY * np.sqrt(strength)
    mixed = base * (1 - opacity) + color * opacity
    result = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    if mask is not None:
        result[contour(mask)] = CONTOUR
    return result


def unit_range(heat: NDArray[np.float32], min_span: float = 0.0) -> NDArray[np.float32]:
    """Scales a map for display: its minimum (at least 0) becomes 0 and its 99.5th percentile 1.

    Args:
        heat: (H, W) of any range; non-finite values count as the minimum.
        min_span: Smallest range that is stretched to the full scale. A map with a smaller range stays faint, so that nearly
            constant attention weights do not look meaningful.

    Returns:
        (H, W) float32 in [0, 1]; all 0 for a constant map.
    """
    clean = np.maximum(np.nan_to_num(heat, nan=-np.inf, posinf=-np.inf), 0.0).astype(np.float32)
    if is_flat(clean):
        return np.zeros_like(clean)
    low, high = float(clean.min()), float(np.percentile(clean, 99.5))
    if high <= low:
        high = float(clean.max())
    return np.asarray(np.clip((clean - low) / max(high - low, min_span), 0.0, 1.0), dtype=np.float32)


def contour(mask: NDArray[np.bool_], width: int | None = None) -> NDArray[np.bool_]:
    """Returns the contour just outside a mask.

    Args:
        mask: (H, W) bool.
        width: Width in pixels; default: 1 per 200 pixels of the longer side.
    """
    steps = width or max(1, round(max(mask.shape) / 200))
    if not mask.any():
        return np.zeros_like(mask)
    return np.asarray(ndimage.binary_dilation(mask, iterations=steps) & ~mask)


def _resize(heat: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if heat.shape == shape:
        return heat
    clean = np.nan_to_num(heat, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    return np.asarray(Picture.fromarray(clean).resize((shape[1], shape[0]), Picture.Resampling.BILINEAR))
