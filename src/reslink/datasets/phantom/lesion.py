"""Lesions of the phantom: shape, mass effect, edema, and a limit on their contrast.

Four kinds are drawn: a ring-enhancing mass with a necrotic core, a solid mass with uneven enhancement, an infiltrating lesion
without a sharp border, and a mass with a hemorrhagic part. The mask is the lesion itself (rim, core, solid or hemorrhagic
part), without the edema around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.phantom.anatomy import Field, Head, Points, Waves, inner_table

LesionKind = Literal["ring", "solid", "infiltrative", "hemorrhagic"]

MAX_CONTRAST_TO_NOISE = 2.3
"""Limit of |mean lesion − mean parenchyma| / noise SD before noise; after noise it stays below 3."""

MAX_EDEMA_TO_NOISE = 2.4
"""Limit of |edema − white matter| / noise SD, so that the lesion can meet its limit against both."""

MAX_DIAMETER = 35.0
MIN_DIAMETER = 21.0
_MARGIN = 5.0  # mm of brain between the middle of the lesion and the inner table


@dataclass(frozen=True)
class Lesion:
    """One lesion in the standard head; lengths in mm.

    Attributes:
        kind: Type of lesion.
        center: Center (x, y, z).
        radii: Half-axes before ``turn``.
        turn: Rotation about z in radians.
        lobes: Random field of the irregular border.
        irregular: Depth of the irregularities.
        edema: Width of the edema.
        push: Largest displacement of the surrounding brain (mass effect).
        rim: Thickness of the enhancing rim.
        bleed: Center and radius of the hemorrhagic part, in the coordinates of the lesion.
    """

    kind: LesionKind
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float
    lobes: Waves
    irregular: float
    edema: float
    push: float
    rim: float
    bleed: tuple[float, float, float]

    @property
    def radius(self) -> float:
        """Mean half-axis in mm."""
        return float(np.mean(self.radii))


def draw_site(rng: np.random.Generator, radius: float) -> tuple[float, float, float]:
    """Draws a position in a hemisphere, above the skull base, where a lesion of this radius fits."""
    while True:
        x, y, z = rng.uniform((14, -62, -2), (56, 60, 46))
        point = Points(*(np.array([v], np.float32) for v in (x, y, z)))
        if float(inner_table(point)[0]) < -(0.8 * radius + _MARGIN):
            return float(x * rng.choice([-1.0, 1.0])), float(y), float(z)


def draw_lesion(rng: np.random.Generator) -> Lesion:
    """Draws a lesion of 21 to 35 mm diameter."""
    radius = float(rng.uniform(MIN_DIAMETER, MAX_DIAMETER) / 2)
    stretch = rng.uniform(0.82, 1.18, 3)
    radii = radius * stretch / np.mean(stretch)
    kind: LesionKind = get_args(LesionKind)[int(rng.choice(4, p=(0.4, 0.28, 0.12, 0.2)))]
    bleed = rng.uniform(-0.35, 0.35, 2) * radius
    low, high = 1.2 / radius, 3.2 / radius
    return Lesion(
        kind=kind,
        center=draw_site(rng, radius),
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        turn=float(rng.uniform(0, np.pi)),
        lobes=Waves.draw(rng, 6, (low, low, low / 2), (high, high, high / 2)),
        irregular=float(rng.uniform(0.05, 0.13) * radius),
        edema=float(rng.uniform(7, 13)),
        push=float(min(rng.uniform(0.3, 0.6) * radius, 9.0)),
        rim=float(rng.uniform(2.8, 3.8)),
        bleed=(float(bleed[0]), float(bleed[1]), float(rng.uniform(0.4, 0.5) * radius)),
    )


def lesion_distance(p: Points, lesion: Lesion) -> tuple[Field, Field]:
    """Returns the signed distances to the lesion and to its hemorrhagic part, in mm."""
    dx, dy, dz = (a - np.float32(c) for a, c in zip((p.x, p.y, p.z), lesion.center, strict=True))
    cos, sin = np.float32(np.cos(lesion.turn)), np.float32(np.sin(lesion.turn))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    rx, ry, rz = (np.float32(r) for r in lesion.radii)
    near = np.sqrt((u / rx) ** 2 + (v / ry) ** 2 + (dz / rz) ** 2)
    distance = (near - 1) * np.float32(lesion.radius) + np.float32(lesion.irregular) * lesion.lobes(dx, dy, dz)
    bleed = np.sqrt((u - lesion.bleed[0]) ** 2 + (v - lesion.bleed[1]) ** 2 + dz**2) - lesion.bleed[2]
    bleed = bleed + np.float32(0.6 * lesion.irregular) * lesion.lobes(dy, dx, dz)
    return distance.astype(np.float32), np.maximum(bleed, distance + 1).astype(np.float32)


def displace(p: Points, lesion: Lesion, depth: Field) -> Points:
    """Returns the undisplaced position of the tissue at ``p``: the mass pushes the brain outward.

    The shift follows a Gaussian around the lesion and decreases to 0 at the inner table, which does not move.

    Args:
        p: Pixels of the slice.
        lesion: The lesion.
        depth: Depth below the inner table in mm.
    """
    dx, dy, dz = (a - np.float32(c) for a, c in zip((p.x, p.y, p.z), lesion.center, strict=True))
    far = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
    reach = np.float32(28 + lesion.radius)
    amount = np.float32(lesion.push) * np.exp(-((far / reach) ** 2)) / (far + np.float32(0.3 * lesion.radius))
    amount *= np.clip(depth / 12, 0, 1)
    return Points(p.x - amount * dx, p.y - amount * dy, p.z - amount * dz)


def bend_brain(p: Points, head: Head) -> Points:
    """Deforms the standard brain by 1 to 2 mm, so that no head is symmetric."""
    bend = np.float32(1.1) * head.wobble(p.x, p.y, p.z)
    return Points(p.x + bend, p.y + np.float32(1.1) * head.wobble(p.y, p.x, p.z), p.z)


def limit_contrast(clean: Field, cover: Field, distance: Field, parenchyma: NDArray[np.bool_], noise_sd: float) -> Field:
    """Shifts the values of the lesion until its contrast-to-noise ratio is within the limit.

    The ratio is |mean lesion − mean surrounding parenchyma| / noise SD (noise-limited contrast: Rose, *J. Opt. Soc. Am.*
    38:196, 1948). It holds against four references: mean and median of the parenchyma within 10 mm of the lesion, including
    edema, and mean and median of the remaining parenchyma.

    Args:
        clean: (H, W) values without noise.
        cover: (H, W) share of a pixel that may be shifted, 0 to 1.
        distance: (H, W) signed distance to the lesion in mm.
        parenchyma: (H, W) pixels of gray or white matter.
        noise_sd: Standard deviation of the noise in the brain.

    Returns:
        The values after the shift.
    """
    inside = distance < 0
    near = parenchyma & (distance > 1) & (distance < 10)
    far = parenchyma & (distance >= 10)
    references = [float(of(clean[region])) for region in (near, far) if region.sum() >= 50 for of in (np.mean, np.median)]
    if not inside.any() or not references:
        return clean
    limit = MAX_CONTRAST_TO_NOISE * noise_sd
    mean = float(clean[inside].mean())
    low, high = max(references) - limit, min(references) + limit
    target = float(np.clip(mean, min(low, high), max(low, high)))
    weight = max(float(cover[inside].mean()), 1e-3)
    return (clean + np.float32((target - mean) / weight) * cover).astype(np.float32)
