"""Rendering of a phantom slice: tissues painted from outside to inside, then the scanner simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from reslink.datasets.phantom import anatomy, physics
from reslink.datasets.phantom import lesion as lesions
from reslink.datasets.phantom.anatomy import Field, Head, Points, as_field
from reslink.datasets.phantom.lesion import Lesion
from reslink.datasets.phantom.tissue import Sequence

FIELD_OF_VIEW = 232.0
"""Side of the image in mm."""

TISSUES = (
    "air", "headrest", "skin", "fat", "muscle", "table", "diploe", "dense_bone", "csf", "gray", "white", "nuclei", "cerebellum",
    "falx", "blood", "calcium", "gliosis", "edema", "rim", "necrosis", "solid", "infiltrate",
)  # fmt: skip
"""Tissue names, indexed by the values of ``RenderedSlice.tissue``."""

MIXED = 255
"""Value in ``RenderedSlice.tissue`` of pixels with more than one tissue."""


@dataclass(frozen=True)
class Scanner:
    """One scanner with its settings, the same for all slices of a patient.

    Attributes:
        sequence: ``CT`` or the MR contrast.
        noise_sd: Standard deviation of the noise in the brain, in HU or MR intensity.
        cutoff: Cutoff frequency of the CT kernel in line pairs per mm.
        blur: Standard deviation of the point spread function in mm.
        hardening: Strength of beam hardening (CT).
        bias: Strength of the coil's bias field (MR).
        gain: Factor on MR intensities, or offset in HU for CT (calibration drift).
        headrest: Whether the headrest is in view (CT).
    """

    sequence: Sequence
    noise_sd: float
    cutoff: float
    blur: float
    hardening: float
    bias: float
    gain: float
    headrest: bool


@dataclass(frozen=True, eq=False)
class RenderedSlice:
    """One slice as arrays.

    Attributes:
        pixels: (N, N) float32, HU for CT, intensity for MR.
        clean: The same before noise, beam hardening and bias field.
        mask: (N, N) bool, the lesion without its edema.
        tissue: (N, N) uint8, index into ``TISSUES`` where a pixel and its neighbors hold one tissue, else ``MIXED``.
        brain: (N, N) bool, inside the inner table.
        noise_sd: Standard deviation of the noise in the brain.
        spacing: Millimeters between pixel centers.
        level: Height in mm above the foramina of Monro.
    """

    pixels: Field
    clean: Field
    mask: NDArray[np.bool_]
    tissue: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    noise_sd: float
    spacing: float
    level: float


@dataclass
class _Canvas:
    """Values and tissue indices of a slice while it is painted."""

    values: dict[str, float]
    spacing: float
    value: Field
    tissue: NDArray[np.uint8]

    def cover(self, distance: Field, soft: float = 1.0) -> Field:
        """Returns the share of each pixel inside a border."""
        return as_field(np.clip(np.float32(0.5) - distance / np.float32(self.spacing * soft), 0, 1))

    def paint(self, name: str, cover: Field) -> Field:
        """Paints a tissue over the existing ones and returns its cover."""
        self.value += cover * (np.float32(self.values[name]) - self.value)
        self.tissue[(cover > 0.03) & (cover < 0.97)] = MIXED
        self.tissue[cover >= 0.97] = TISSUES.index(name)
        return cover

    def fill(self, name: str, distance: Field) -> Field:
        """Paints the inside of a border."""
        return self.paint(name, self.cover(distance))


def render(
    head: Head,
    scanner: Scanner,
    values: dict[str, float],
    level: float,
    rng: np.random.Generator,
    lesion: Lesion | None = None,
    size: int = 256,
) -> RenderedSlice:
    """Renders one slice.

    Args:
        head: The patient's anatomy.
        scanner: The patient's scanner.
        values: Tissue name to value, see ``phantom_tissue.tissue_values``.
        level: Height of the slice above the foramina of Monro in mm of the standard head, −30 to 60.
        rng: The slice's generator: noise only.
        lesion: The patient's lesion, or None.
        size: Pixels along each side.
    """
    spacing = FIELD_OF_VIEW / size
    p = anatomy.slice_points(head, level, size, spacing)
    canvas = _Canvas(values, spacing, np.full((size, size), values["air"], np.float32), np.zeros((size, size), np.uint8))
    inner = anatomy.inner_table(p)
    if scanner.headrest:
        _paint_headrest(canvas, p)
    _paint_skull(canvas, p, inner, head)
    q, near = _pushed(p, inner, head, lesion)
    parenchyma = _paint_brain(canvas, q, inner, head, near)
    mask = np.zeros((size, size), np.bool_)
    if lesion is not None:
        mask = _paint_lesion(canvas, p, inner, lesion, parenchyma, scanner.noise_sd)
    _paint_bone_inside(canvas, p, q, inner, head)
    clean = canvas.value
    pixels = _scan(clean, inner, spacing, scanner, rng)
    return RenderedSlice(pixels, clean, mask, _pure(canvas.tissue), inner < -1, scanner.noise_sd, spacing, level)


def _pure(tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Marks as mixed what has another tissue among its eight neighbors, so that the scanner's blur mixes no others in."""
    same = scipy.ndimage.minimum_filter(tissue, 3) == scipy.ndimage.maximum_filter(tissue, 3)
    return np.where(same, tissue, np.uint8(MIXED)).astype(np.uint8)


def _pushed(p: Points, inner: Field, head: Head, lesion: Lesion | None) -> tuple[Points, Field]:
    """Returns the undisplaced position of the tissue of each pixel, and the compression of its sulci (0 to 1)."""
    near = np.zeros_like(inner)
    q = lesions.bend_brain(p, head)
    if lesion is None:
        return q, near
    x, y, z = (a - np.float32(c) for a, c in zip((p.x, p.y, p.z), lesion.center, strict=True))
    near = np.exp(-(x * x + y * y + z * z) / np.float32((lesion.radius + 10) ** 2))
    return lesions.displace(q, lesion, -inner), near


def _paint_headrest(canvas: _Canvas, p: Points) -> None:
    bow = np.abs(np.hypot(p.x, p.y + 10) - 108) - np.float32(1.2)
    canvas.fill("headrest", as_field(np.maximum(bow, p.y + 62)))


def _paint_skull(canvas: _Canvas, p: Points, inner: Field, head: Head) -> None:
    angle = np.arctan2(p.y, p.x)
    side = as_field(np.abs(np.cos(angle)) * np.exp(-(((p.y - 18) / 34) ** 2)) * np.clip((32 - p.z) / 30, 0, 1))
    thicker = 1 + 0.05 * head.depth(angle, inner, p.z) + 0.22 * np.abs(np.sin(angle)) ** 3 - 0.3 * side
    skull = as_field(head.skull * thicker)
    muscle = as_field(skull + 9 * side)
    fat = muscle + np.float32(head.fat)
    canvas.fill("skin", inner - fat - np.float32(head.skin))
    canvas.fill("fat", inner - fat)
    canvas.fill("muscle", inner - muscle)
    canvas.fill("table", inner - skull)
    canvas.fill("diploe", as_field(np.abs(inner - 0.52 * skull) - 0.24 * skull + 1.6 * side))
    canvas.fill("csf", inner)


def _paint_brain(canvas: _Canvas, q: Points, inner: Field, head: Head, near: Field) -> NDArray[np.bool_]:
    """Paints brain and fluid; returns the mask of the parenchyma."""
    old = (head.age - 20) / 68
    depth = as_field(-inner - np.float32(0.8 + 1.6 * old) * (1 + 0.4 * np.clip(q.y / 80, -1, 1)))
    ventricles, cisterns = anatomy.fluid_spaces(q, head)
    cisterns = cisterns + 1.5 * near
    sulci, crest = _sulci(q, depth, head, near, canvas.spacing)
    fissure = _fissure(q, head, near)
    border = np.minimum(np.minimum(depth, crest), np.minimum(fissure, cisterns))
    thickness = np.float32(3.1)
    canvas.paint("gray", canvas.cover(-depth))
    canvas.paint("white", canvas.cover(thickness - border, 1.4))
    _paint_gliosis(canvas, q, ventricles, border, head)
    canvas.paint("nuclei", canvas.cover(np.maximum(anatomy.nuclei(q, head), 1.2 - ventricles), 1.6))
    canvas.paint("white", canvas.cover(anatomy.claustral_white(q), 1.6))
    fluid = np.minimum(np.minimum(sulci, fissure), np.minimum(cisterns, ventricles))
    _paint_hindbrain(canvas, q, depth, head)
    canvas.paint("csf", np.minimum(canvas.cover(fluid), canvas.cover(-depth)))
    return np.asarray((fluid > 1) & (depth > 1))


def _sulci(q: Points, depth: Field, head: Head, near: Field, spacing: float) -> tuple[Field, Field]:
    """Returns the signed distance to the sulci, and the distance to their center line.

    A sulcus follows the zero line of a narrow-band random field over angle, depth and level; the field divided by its gradient
    is the distance to that line.
    """
    angle = np.arctan2(q.y / 83, q.x / 66)
    bent = angle + np.float32(0.11) * head.meander(angle, depth, q.z)
    wave = head.folding(bent, depth, q.z)
    rows, columns = np.gradient(wave, np.float32(spacing))
    line = np.abs(wave) / np.maximum(np.hypot(rows, columns), np.float32(0.06))
    bottom = 13 + 5 * head.depth(angle, depth, q.z)
    beyond = np.maximum(depth - bottom, 0)
    crest = np.hypot(line, beyond)
    width = np.float32(head.sulci) * (1.15 - 0.75 * np.clip(depth / np.maximum(bottom, 4), 0, 1)) * (1 - near) + 0.1
    return as_field(crest - width), as_field(crest)


def _fissure(q: Points, head: Head, near: Field) -> Field:
    """Signed distance to the fissure between the hemispheres."""
    callosum = anatomy.callosal_region(q)
    width = np.float32(0.35 + 0.5 * head.sulci) * (1 - 0.7 * near) + 0.25 * np.clip(np.abs(q.y) - 50, 0, 20) / 10
    return as_field(np.maximum(np.abs(q.x) - width, -callosum))


def _paint_gliosis(canvas: _Canvas, q: Points, ventricles: Field, border: Field, head: Head) -> None:
    """Paints darker white matter around the ventricles and in patches (leukoaraiosis), which increases with age."""
    caps = np.clip(1 - ventricles / np.float32(3 + 9 * head.leukoaraiosis), 0, 1)
    patches = np.clip(head.patches(q.x, q.y, q.z) - np.float32(2.1 - 1.2 * head.leukoaraiosis), 0, 1)
    amount = np.clip(caps + patches * (ventricles < 22), 0, 1) * np.float32(0.15 + 0.85 * head.leukoaraiosis)
    canvas.value += amount * np.clip(border / 4 - 1, 0, 1) * np.float32(canvas.values["gliosis"] - canvas.values["white"])


def _paint_hindbrain(canvas: _Canvas, q: Points, depth: Field, head: Head) -> None:
    """Paints cerebellum, its folia and the brainstem if the slice is low enough."""
    if float(q.z.min()) > 0:
        return
    cerebellum = anatomy.ellipsoid(q, (0, -46, -30), (54, 36, 22))
    inside = np.minimum(canvas.cover(cerebellum, 1.5), canvas.cover(2 - depth))
    canvas.paint("csf", np.minimum(canvas.cover(cerebellum - 0.5, 1.5), canvas.cover(1 - depth)))
    canvas.paint("cerebellum", inside)
    folia = np.cos(cerebellum * np.float32(1.5) + head.meander(np.arctan2(q.y + 46, q.x), depth, q.z))
    cortex = inside * np.clip(1 + cerebellum / 14, 0, 1)
    canvas.value += cortex * folia * np.float32(0.05 * (canvas.values["csf"] - canvas.values["cerebellum"]))
    canvas.paint("white", canvas.cover(anatomy.ellipsoid(q, (0, -9, -24), (13, 11, 19)), 1.5))


def _paint_lesion(
    canvas: _Canvas, p: Points, inner: Field, lesion: Lesion, parenchyma: NDArray[np.bool_], noise_sd: float
) -> NDArray[np.bool_]:
    """Paints edema and lesion; returns the mask."""
    distance, bleed = lesions.lesion_distance(p, lesion)
    inside = canvas.cover(inner + 2)
    white = np.clip((canvas.values["nuclei"] - canvas.value) / (canvas.values["nuclei"] - canvas.values["white"]), 0, 1)
    reach = np.clip(1.5 - 1.5 * distance / np.float32(lesion.edema), 0, 1) * parenchyma
    limit = lesions.MAX_EDEMA_TO_NOISE * noise_sd
    swelling = float(np.clip(canvas.values["edema"] - canvas.values["white"], -limit, limit))
    canvas.value += reach * (0.3 + 0.7 * white) * np.float32(swelling)
    before = canvas.value.copy()
    blood = _paint_mass(canvas, p, distance, bleed, inside, lesion)
    cover = canvas.cover(distance, 1.5) * inside
    canvas.value = before + (canvas.value - before) * cover
    mask = (distance < 0) & (inner < -2)
    outside = np.where(mask, distance, np.maximum(distance, 0))
    canvas.value = lesions.limit_contrast(
        canvas.value, cover * (1 - blood), outside.astype(np.float32), parenchyma & (inner < -3), noise_sd
    )
    canvas.tissue[(distance < lesion.edema) & (distance > -1) & (inner < 0)] = MIXED
    return mask


def _paint_mass(canvas: _Canvas, p: Points, distance: Field, bleed: Field, inside: Field, lesion: Lesion) -> Field:
    """Paints the tissues of the lesion and returns the cover of its blood."""
    whole_lesion = canvas.cover(distance - 1) * inside
    blood = np.zeros_like(distance)
    if lesion.kind == "infiltrative":
        canvas.paint("infiltrate", whole_lesion * np.clip(0.45 - distance / 8, 0, 0.85))
        foci = lesion.lobes(*(a * np.float32(1.5) for a in (p.x, p.y, p.z)))
        canvas.paint("rim", whole_lesion * np.clip(1.6 * foci - 1.2, 0, 0.8))
        return blood
    ring = lesion.kind == "ring"
    canvas.paint("rim" if ring else "solid", whole_lesion)
    if not ring:
        clumps = lesion.lobes(*(a * np.float32(1.4) for a in (p.x, p.y, p.z)))
        canvas.paint("rim", whole_lesion * np.clip(2 * clumps - 0.4, 0, 1))
    else:
        canvas.paint("necrosis", canvas.cover(distance + np.float32(lesion.rim), 1.6) * inside)
    if lesion.kind == "hemorrhagic":
        blood = canvas.paint("blood", canvas.cover(bleed, 1.5) * inside)
    return blood


def _paint_bone_inside(canvas: _Canvas, p: Points, q: Points, inner: Field, head: Head) -> None:
    """Paints falx, sinus, calcifications and the skull base."""
    callosum = anatomy.callosal_region(q)
    falx = np.maximum(np.abs(q.x) - np.float32(0.55), 9 - callosum)
    canvas.paint("falx", np.minimum(canvas.cover(falx), canvas.cover(inner)))
    sinus = np.hypot(p.x, p.y + 80.5) - np.float32(2.2 + head.skin / 2)
    canvas.paint("falx", np.minimum(canvas.cover(sinus), canvas.cover(inner)))
    half = Points(np.abs(q.x), q.y, q.z)
    for radius, center, points in (
        (head.choroid, (21.0 + 2 * head.ventricles, -34.0, 12.0), half),
        (head.pineal, (0.0, -25.0, 1.0), q),
        (head.pallidum, (21.0, 2.0, 1.0), half),
    ):
        if radius > 0:
            canvas.paint("calcium", canvas.cover(anatomy.ellipsoid(points, center, (radius, radius * 1.3, radius * 2.2)), 1.4))
    if float(p.z.min()) < -5:
        canvas.paint("dense_bone", np.minimum(canvas.cover(anatomy.skull_base(p)), canvas.cover(inner - 3)))


def _scan(clean: Field, inner: Field, spacing: float, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Simulates the scanner: returns the stored values."""
    sharp = scipy.ndimage.gaussian_filter(clean, scanner.blur / spacing, mode="nearest", truncate=3)
    if scanner.sequence != "CT":
        coil = physics.bias_field((clean.shape[0], clean.shape[1]), scanner.bias, rng)
        return physics.rician(sharp * coil, scanner.noise_sd, rng) * np.float32(scanner.gain)
    error = physics.beam_hardening(clean, spacing, scanner.hardening)
    brain = (inner < -4) & (clean < 100)
    error = error - np.float32(np.median(error[brain]) if brain.any() else 0)
    noise = physics.quantum_noise((clean.shape[0], clean.shape[1]), spacing, scanner.cutoff, rng)
    noise *= np.float32(scanner.noise_sd) * _noise_map(inner)
    return as_field(np.maximum(sharp + error + np.float32(scanner.gain) + noise, -1024))


def _noise_map(inner: Field) -> Field:
    """Returns relative CT noise: strongest in the center of the head (1.1), 0.9 under the skull, less in air."""
    return as_field(np.clip(0.9 - inner / 300, 0.55, 1.15))
