"""Anatomy of the healthy phantom head: signed distances in millimeters on one slice.

Coordinates are those of a standard head in millimeters: x to the patient's left, y to the front, z to the top, with
the origin between the foramina of Monro. Signed distances are negative inside. Sizes follow textbook adult anatomy (Mai et
al., *Atlas of the Human Brain*): skull 6 to 10 mm, cortex 2.5 to 3 mm, sulci 10 to 20 mm deep, frontal horns and bodies above
the foramina.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]


def as_field(values: ArrayLike) -> Field:
    """Returns values as float32."""
    return np.asarray(values, np.float32)


_BRAIN = (66.0, 83.0, 70.0)  # half-axes of the inner table
_BRAIN_CENTER = (0.0, 0.0, 6.0)


@dataclass(frozen=True)
class Points:
    """Coordinates of the pixels of one slice in the standard head, each (H, W) float32 in mm."""

    x: Field
    y: Field
    z: Field


@dataclass(frozen=True)
class Waves:
    """A sum of random plane waves: a smooth random field that is the same at every level of a head."""

    vectors: NDArray[np.float32]
    phases: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, lowest: tuple[float, ...], highest: tuple[float, ...]) -> Waves:
        """Draws ``count`` waves with uniform wave numbers between two bounds (radians per unit) and random signs."""
        size = rng.uniform(lowest, highest, size=(count, len(lowest)))
        sign = rng.choice([-1.0, 1.0], size=size.shape)
        return cls((size * sign).astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, *axes: Field) -> Field:
        """Returns the field at the given coordinates, of mean 0 and standard deviation 1."""
        total = np.zeros_like(axes[0])
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            angle = phase + vector[0] * axes[0]
            for number, axis in zip(vector[1:], axes[1:], strict=True):
                angle += number * axis
            total += np.cos(angle)
        return as_field(total * np.float32(np.sqrt(2.0 / len(self.phases))))


@dataclass(frozen=True)
class Head:
    """The parameters of one head; lengths in mm, angles in radians.

    Attributes:
        age: Years; older heads have wider ventricles and sulci.
        scale: Width, length and height relative to the standard head.
        turn: Rotation in the image plane.
        shift: Position in the image, x and y.
        tilt: Slope of the slice plane, side to side and front to back.
        ventricles: Factor on the radii of the ventricles.
        sulci: Half-width of a sulcus at the surface.
        skull: Thickness of the vault.
        fat, skin: Thickness of the scalp's fat and of the skin.
        leukoaraiosis: Amount of gliotic white matter, 0 to 1.
        choroid, pineal, pallidum: Radius of a calcification, 0 for none.
        folding, meander, depth, wobble, patches: Random fields of cortex, of asymmetry, of the skull and of gliosis.
    """

    age: float
    scale: tuple[float, float, float]
    turn: float
    shift: tuple[float, float]
    tilt: tuple[float, float]
    ventricles: float
    sulci: float
    skull: float
    fat: float
    skin: float
    leukoaraiosis: float
    choroid: float
    pineal: float
    pallidum: float
    folding: Waves
    meander: Waves
    depth: Waves
    wobble: Waves
    patches: Waves


def _waves_around(rng: np.random.Generator, count: int, low: int, high: int, inward: float, up: float) -> Waves:
    """Waves over (angle, depth, level), with whole wave numbers around the head to avoid a seam."""
    waves = Waves.draw(rng, count, (low, inward / 4, up / 4), (high, inward, up))
    waves.vectors[:, 0] = np.round(waves.vectors[:, 0])
    return waves


def draw_head(rng: np.random.Generator) -> Head:
    """Draws a head; it does not depend on whether the patient has a lesion."""
    age = float(rng.uniform(20, 88))
    old = (age - 20) / 68
    size = rng.normal(1.0, 0.035)
    width, length, height = size * (1 + rng.normal(0, 0.025, 3))
    calcified = rng.random(3) < (0.25 + 0.5 * old, 0.3 + 0.4 * old, 0.15 * old)
    radius = np.where(calcified, rng.uniform((1.6, 1.3, 1.5), (3.4, 2.8, 3.0)), 0.0)
    return Head(
        age=age,
        scale=(float(np.clip(width, 0.9, 1.1)), float(np.clip(length, 0.9, 1.1)), float(np.clip(height, 0.9, 1.1))),
        turn=float(rng.normal(0, np.deg2rad(4.5))),
        shift=(float(rng.normal(0, 4)), float(rng.normal(0, 5))),
        tilt=(float(rng.normal(0, 0.03)), float(rng.normal(0.05, 0.09))),
        ventricles=float(np.exp(rng.normal(-0.25 + 0.55 * old, 0.34))),
        sulci=float(0.35 + 0.75 * old * rng.uniform(0.4, 1.2) + rng.uniform(0, 0.3)),
        skull=float(rng.uniform(6.0, 9.5)),
        fat=float(rng.uniform(2.8, 5.5)),
        skin=float(rng.uniform(1.5, 4.0)),
        leukoaraiosis=float(np.clip(rng.normal(0.8 * old, 0.35), 0, 1)),
        choroid=float(radius[0]),
        pineal=float(radius[1]),
        pallidum=float(radius[2]),
        folding=_waves_around(rng, 14, 10, 24, 0.11, 0.09),
        meander=_waves_around(rng, 6, 3, 9, 0.09, 0.06),
        depth=_waves_around(rng, 6, 3, 14, 0.02, 0.05),
        wobble=Waves.draw(rng, 6, (0.01, 0.01, 0.01), (0.05, 0.05, 0.04)),
        patches=Waves.draw(rng, 10, (0.05, 0.05, 0.05), (0.32, 0.32, 0.2)),
    )


def slice_points(head: Head, level: float, size: int, spacing: float) -> Points:
    """Returns the coordinates of the pixels of a slice in the standard head.

    Args:
        head: The head.
        level: Height of the slice center above the foramina of Monro, in mm of the standard head.
        size: Pixels along each side.
        spacing: Millimeters between pixel centers.
    """
    steps = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(spacing)
    right, front = np.meshgrid(steps - np.float32(head.shift[0]), -steps - np.float32(head.shift[1]))
    cos, sin = np.float32(np.cos(head.turn)), np.float32(np.sin(head.turn))
    x = (cos * right + sin * front) / np.float32(head.scale[0])
    y = (cos * front - sin * right) / np.float32(head.scale[1])
    z = np.float32(level) + np.float32(head.tilt[0]) * x + np.float32(head.tilt[1]) * y
    return Points(x, y, z)


def ellipsoid(p: Points, center: tuple[float, float, float], radii: tuple[float, float, float]) -> Field:
    """Signed distance to an ellipsoid, to first order (exact on the surface)."""
    x, y, z = (a - np.float32(c) for a, c in zip((p.x, p.y, p.z), center, strict=True))
    rx, ry, rz = (np.float32(r) for r in radii)
    near = np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + (z / rz) ** 2)
    slope = np.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2 + (z / rz**2) ** 2)
    return as_field(near * (near - 1) / np.maximum(slope, np.float32(1e-6)))


def tube(p: Points, nodes: NDArray[np.float64], flat: float = 1.0) -> Field:
    """Signed distance to a tube through nodes (n, 4) of x, y, z and radius; ``flat`` < 1 makes it tall in z."""
    best = np.full_like(p.x, 1e3)
    for start, end in zip(nodes[:-1].astype(np.float32), nodes[1:].astype(np.float32), strict=True):
        ax, ay, az = end[:3] - start[:3]
        az *= np.float32(flat)
        dx, dy, dz = p.x - start[0], p.y - start[1], (p.z - start[2]) * np.float32(flat)
        along = np.clip((dx * ax + dy * ay + dz * az) / (ax * ax + ay * ay + az * az), 0, 1)
        far = np.sqrt((dx - along * ax) ** 2 + (dy - along * ay) ** 2 + (dz - along * az) ** 2)
        best = np.minimum(best, far - (start[3] + along * (end[3] - start[3])))
    return best


def inner_table(p: Points) -> Field:
    """Signed distance to the inner surface of the skull: an egg, narrower in front."""
    narrow = 1 + np.float32(0.0009) * np.clip(p.y, -40, 90)
    return ellipsoid(Points(p.x * narrow, p.y, p.z), _BRAIN_CENTER, _BRAIN)


# Nodes of the left half: x, y, z, radius in mm.
_LATERAL = np.array(
    [[6.5, 34, 3, 2.2], [6.5, 27, 9, 4.2], [7.5, 14, 16, 4.6], [9.5, -4, 21, 4.8], [14, -20, 20, 5.4], [21, -33, 12, 6.2]]
)
_OCCIPITAL = np.array([[21, -33, 12, 6.2], [24, -44, 7, 4.4], [22, -58, 5, 2.0]])
_TEMPORAL = np.array([[21, -33, 12, 6.2], [31, -26, -2, 3.2], [34, -10, -12, 2.0], [31, 0, -17, 1.6]])
_SYLVIAN = np.array([[58, 24, 2, 3.0], [46, 17, 2, 2.2], [39, 9, 3, 1.5], [39, -8, 5, 1.3], [44, -20, 9, 1.2]])
_THIRD = np.array([[0, 8, -8, 1.1], [0, 2, 0, 1.5], [0, -14, 0, 1.9], [0, -20, -3, 1.2]])
_QUADRIGEMINAL = np.array([[0, -31, -3, 3.6], [10, -27, -4, 2.2], [17, -18, -9, 1.6]])
_PETROUS = np.array([[14, 2, -32, 5.0], [34, -14, -29, 9.0], [60, -26, -27, 12.0]])
_SPHENOID = np.array([[8, 24, -28, 5.0], [34, 30, -24, 3.0], [58, 22, -14, 4.0]])


def _wider(nodes: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    aside = np.array([3.0, 0, 0, 0]) * (nodes[:, :1] > 0) * (factor - 1)
    return np.asarray(nodes * np.array([1.0, 1.0, 1.0, factor]) + aside, np.float64)


def fluid_spaces(p: Points, head: Head) -> tuple[Field, Field]:
    """Returns the signed distances to the ventricles and to the cisterns with the Sylvian fissures."""
    half = Points(np.abs(p.x), p.y, p.z)
    width = head.ventricles
    ventricles = np.minimum(tube(half, _wider(_LATERAL, width)), tube(half, _wider(_OCCIPITAL, width)))
    ventricles = np.minimum(ventricles, tube(half, _wider(_TEMPORAL, width)))
    ventricles = np.minimum(ventricles, tube(p, _wider(_THIRD, width), flat=0.25))
    ventricles = np.minimum(ventricles, ellipsoid(p, (0, -43, -27), (7 * width, 6 * width, 9)))
    septum = np.float32(0.7) - half.x
    ventricles = np.where((p.y > -12) & (p.z > 4), np.maximum(ventricles, septum), ventricles)
    cisterns = tube(half, _wider(_SYLVIAN, 0.5 + head.sulci), flat=0.16)
    cisterns = np.minimum(cisterns, tube(half, _QUADRIGEMINAL, flat=0.5))
    star = ellipsoid(p, (0, 14, -22), (15, 9, 10)) + 2.5 * np.cos(5 * np.arctan2(p.x, p.y - 14))
    brainstem = ellipsoid(p, (0, -9, -24), (15, 13, 20))
    around = np.maximum(np.abs(brainstem) - 1.6, p.z + 7)
    return ventricles, np.minimum(np.minimum(cisterns, star), around)


def nuclei(p: Points, head: Head) -> Field:
    """Signed distance to caudate, lentiform nucleus and thalamus of both sides."""
    half = Points(np.abs(p.x) - 2 * np.float32(head.ventricles - 1), p.y, p.z)
    caudate = tube(half, np.array([[12.5, 24, 4, 4.4], [14, 13, 13, 4.2], [17, -4, 21, 2.6], [22, -18, 21, 1.6]]))
    lentiform = tube(half, np.array([[24, 15, 3, 4.0], [25, 5, 3, 5.6], [29, -9, 3, 3.0]]), flat=0.6)
    thalamus = ellipsoid(half, (10.5, -12, 6), (7.5, 13, 10))
    return np.minimum(np.minimum(caudate, lentiform), thalamus)


def claustral_white(p: Points) -> Field:
    """Signed distance to the white matter between insula and lentiform nucleus (the extreme and external capsules)."""
    return tube(Points(np.abs(p.x), p.y, p.z), np.array([[31, 18, 3, 0.6], [32.5, 4, 3, 0.7], [34, -10, 3, 0.6]]), flat=0.5)


def skull_base(p: Points) -> Field:
    """Signed distance to the petrous ridges and the sphenoid wings."""
    half = Points(np.abs(p.x), p.y, p.z)
    return np.minimum(tube(half, _PETROUS), tube(half, _SPHENOID))


def callosal_region(p: Points) -> Field:
    """Signed distance to the region that joins the hemispheres: the corpus callosum and structures below."""
    return ellipsoid(p, (0, -3, 4), (1e3, 41, 25))
