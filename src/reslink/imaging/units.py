"""The rule of units for files that state none: NIfTI, NPY, TIFF of floats, and arrays.

The range and the histogram decide. A head CT in HU has air near -1000 or a clipped floor, a narrow peak of soft tissue from 0
to 80, little between both, and bone above 300. MR has a broad histogram in any scale. Whole numbers decide nothing, because
resampling and automatic scaling give fractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import damaged_error, finite_float32, warn

Values: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Certainty: TypeAlias = Literal["sure", "probably", "perhaps", "no"]
"""How certain it is that values are HU. The two in the middle cause a warning; ``probably`` is read as HU."""

NO_HU: Final = "its header states CT without a rescale to HU, and its values are not HU by their histogram"
"""Why a DICOM file is not classified; a unit that the user states lifts it."""

_SAMPLES: Final = 200_000
_MIN_LEVELS: Final = 16
"""An image has more values than this; a mask has fewer."""

_AIR: Final = -800.0
"""HU between air and everything else; lung and foam are close to it."""

_SOFT: Final = (-20.0, 90.0)
"""HU of brain, blood and muscle, with noise."""

_BONE: Final = 300.0
_FAT: Final = (-200.0, -20.0)
_MIN_FAT: Final = 0.02
"""Share of fat and of partial volume of skin and air. Heads in CT have 0.045 and more; MR on a background of -1000 has none."""


@dataclass(frozen=True)
class _Layout:
    """How HU are stored: HU = ``scale`` · value − ``offset``."""

    scale: float
    offset: float
    text: str


_HU: Final = _Layout(1, 0, "HU")
_LAYOUTS: Final = (
    _Layout(1, 1024, "HU + 1024"),
    _Layout(1, 1000, "HU + 1000"),
    _Layout(1, 8192, "HU + 8192"),
    _Layout(1, 32768, "HU + 32768"),
    _Layout(1000, 0, "HU / 1000"),
    _Layout(1000, 1000, "HU / 1000 + 1"),
    _Layout(2000, 1000, "HU from -1000 to 1000, scaled to 0 to 1"),
    _Layout(4095, 1024, "HU from -1024 to 3071, scaled to 0 to 1"),
)
"""Common ways to store HU without saying so."""


@dataclass(frozen=True)
class _Guess:
    """What the histogram says about values.

    Attributes:
        layout: How HU are stored; None for values that are probably not HU.
        is_certain: Whether the values are HU beyond doubt, so that the image counts as stated CT.
        note: What the user should know, or None.
    """

    layout: _Layout | None
    is_certain: bool
    note: str | None = None


_NOTHING: Final = _Guess(None, False)


@dataclass(frozen=True)
class _Shares:
    """Shares of a histogram in HU.

    Attributes:
        air: Share of all values below -800 HU. The other shares are of the values above.
        gap: From -800 to -200 HU, where a head has only partial volume, hair and foam.
        fat: From -200 to -20 HU.
        soft: Soft tissue with noise.
        wide: From -200 to 200 HU: fat and soft tissue.
        bone: Above 300 HU.
        peak: Center of the fullest 20 HU within soft tissue.
    """

    air: float
    gap: float
    fat: float
    soft: float
    wide: float
    bone: float
    peak: float


def image_of_values(
    values: NDArray[np.generic],
    name: str,
    unit: Unit | None = None,
    *,
    white: float | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Image:
    """Returns the image of values whose file states no unit.

    The image has the modality CT only if HU are stated by the user, or certain by range and histogram. A doubtful guess decides
    the unit alone: the modality then counts as not stated.

    Values that are not finite become padding if they surround the head; a warning says so. Where the histogram shows beyond
    doubt that HU are stored with an offset or a scale, they are converted; a warning says so. An ambiguous histogram causes a
    warning that names the option.

    Args:
        values: (H, W) or (D, H, W).
        name: File name for messages.
        unit: The unit stated by the user; None decides by the histogram.
        white: The maximum of the file's bit depth, for values that are gray values unless they look like HU; else None.
        spacing: Distance between pixel centers in millimeters, or None.

    Raises:
        InputError: If a value within the head is not finite, or the unit is HU and the values are those of an 8-bit picture.
    """
    pixels, padding, notes = _without_gaps(values, name)
    if unit == "HU" and white == 255:
        raise InputError(
            f"{name} has 8-bit values, but the unit HU was stated",
            "HU need 16 bits or floating point numbers; an 8-bit picture holds gray values",
            "Omit the unit, or state gray",
        )
    guess = _NOTHING
    if unit == "HU" or (unit is None and white != 255):
        guess = _guess(_sample(pixels if padding is None else pixels[~padding]), unit, white)
        notes += [guess.note] if guess.note else []
    for note in notes:
        warn(f"{name} {note}")
    image = Image(pixels, "MR", spacing=spacing, padding=padding, source=name, notes=tuple(notes))
    if guess.layout is not None:
        hu = pixels if guess.layout == _HU else pixels * np.float32(guess.layout.scale) - np.float32(guess.layout.offset)
        return replace(image, pixels=hu, unit="HU", modality="CT" if guess.is_certain else None)
    if unit == "gray" or (unit is None and white):
        return replace(image, unit="gray", white=white or _white_of(pixels))
    return replace(image, modality="MR" if unit == "MR" else None)


def with_stated_unit(image: Image, unit: Unit | None) -> Image:
    """Returns an image with the unit that the user states, for files that state a unit or modality themselves.

    Args:
        image: The image, as its reader returns it.
        unit: The unit; None keeps that of the reader.

    Raises:
        InputError: If the file states another unit or modality.
    """
    if unit is None or image.unit == unit:
        return image
    if image.unit == "HU" or (image.modality, unit) in (("CT", "MR"), ("MR", "HU")):
        raise InputError(
            f"The unit {unit} was stated for {image.source}, but its header states {image.modality or image.unit}",
            "A unit is stated for files that state none, such as NIfTI and NPY",
            "Omit the unit for this file",
        )
    if unit == "HU":
        hu = image_of_values(image.pixels, image.source, unit, white=image.white)
        excluded = None if image.excluded == NO_HU else image.excluded
        return replace(image, pixels=hu.pixels, unit="HU", modality="CT", white=None, excluded=excluded)
    white = (image.white or _white_of(image.pixels)) if unit == "gray" else None
    return replace(image, unit=unit, modality="MR" if unit == "MR" else image.modality, white=white)


def _white_of(pixels: Values) -> float | None:
    """Returns the maximum of the bit depth that gray values fit in."""
    low, high = float(pixels.min()), float(pixels.max())
    return next((white for white in (255.0, 65535.0) if low >= 0 and high <= white), None)


def _without_gaps(values: NDArray[np.generic], name: str) -> tuple[Values, Mask | None, list[str]]:
    """Returns finite values, the mask of the pixels around the head without a measurement, or None, and notes.

    These are pixels that are not finite, and those of a fill value far from all others.

    Raises:
        InputError: If a value that is not finite is within the head: it is not connected to the sides of the slices.
    """
    with np.errstate(all="ignore"):
        pixels = np.ascontiguousarray(values, dtype=np.float32)
    if values.dtype.kind not in "bui" and not (np.isfinite(pixels.min()) and np.isfinite(pixels.max())):
        return _without_infinity(pixels, name)
    fill = None if values.dtype.itemsize == 1 else _fill_value(pixels)
    gaps = np.zeros(0, np.bool_) if fill is None else pixels == fill
    if fill is None or not np.array_equal(gaps, _connected_to_sides(gaps)):  # within the head it may be metal
        return pixels, None, []
    return _as_padding(pixels, gaps, f"the fill value {fill:g}")


def _without_infinity(pixels: Values, name: str) -> tuple[Values, Mask | None, list[str]]:
    gaps = ~np.isfinite(pixels)
    if gaps.all():
        return finite_float32(pixels, name), None, []  # raises the error
    inside = int((gaps & ~_connected_to_sides(gaps)).sum())
    if inside:
        raise damaged_error(name, f"{inside} values within the head are not finite (NaN or infinity)")
    return _as_padding(pixels, gaps, "NaN or infinity")


def _as_padding(pixels: Values, gaps: Mask, content: str) -> tuple[Values, Mask | None, list[str]]:
    note = f"has {content} around the head, in {gaps.mean():.0%} of its pixels, which is read as background"
    return np.where(gaps, pixels[~gaps].min(), pixels), gaps, [note]


def _connected_to_sides(mask: Mask) -> Mask:
    """Returns the parts of a mask that reach the first or last row or column of a slice."""
    from scipy import ndimage  # slow to import, and rarely needed

    parts, _ = ndimage.label(mask)
    sides = np.unique(np.concatenate([parts[..., [0, -1], :].ravel(), parts[..., [0, -1]].ravel()]))
    return mask & np.isin(parts, sides[sides > 0])


def _fill_value(pixels: Values) -> float | None:
    """Returns the lowest or highest value if it is frequent and farther from the others than these are from each other."""
    sample = pixels.reshape(-1)[:: max(1, pixels.size // _SAMPLES)]
    for fill in (float(sample.min()), float(sample.max())):
        others = sample[sample != fill]
        if -1100 <= fill <= 0:  # air in HU, or the background of MR
            continue
        if others.size < 0.01 * sample.size or sample.size - others.size < 0.01 * sample.size:
            continue
        low, high = float(others.min()), float(others.max())
        distance = low - fill if fill < low else fill - high
        if distance > high - low > 0 and np.unique(others).size >= _MIN_LEVELS:
            return fill
    return None


def _sample(values: Values) -> Values:
    return values.reshape(-1)[:: max(1, values.size // _SAMPLES)]


def _guess(sample: Values, unit: Unit | None, white: float | None) -> _Guess:
    """Returns whether values are HU and how they are stored.

    Args:
        sample: (n,) values.
        unit: HU if the user states it, else None.
        white: The maximum of the bit depth if the values are gray values unless they look like HU, else None.
    """
    certainty = "sure" if unit == "HU" else "no" if white else _certainty_of_hu(sample)
    stored = _stored_layout(sample) if unit == "HU" or certainty == "no" else None
    if stored is not None:
        best, shares = stored
        note = f"holds {best.text} by its histogram; the values are converted to HU"
        return _Guess(best, unit == "HU" or _is_ct_beyond_doubt(shares), note)
    if certainty == "no" and not white and _may_be_stored(sample):
        certainty = "perhaps"
    layout = _HU if certainty in ("sure", "probably") else None
    if certainty in ("sure", "no"):
        return _Guess(layout, certainty == "sure")
    text = (
        f"has values from {sample.min():g} to {sample.max():g} and is read as {'HU' if layout else 'arbitrary intensities'}. "
        "By its range and histogram it may be CT in HU or not. "
        "State the unit: --unit hu, mr or gray, or the column 'unit' of a table"
    )
    return _Guess(layout, False, text)


def stored_as(values: Values) -> str | None:
    """Returns in words how HU are stored with an offset or a scale, if the histogram leaves no doubt; else None."""
    stored = _stored_layout(_sample(values))
    return None if stored is None else stored[0].text


def _shares(hu: Values) -> _Shares | None:
    """Returns the shares of a histogram in HU; None if all values are air."""
    body = hu[hu > _AIR]
    if not body.size:
        return None

    def share(low: float, high: float) -> float:
        return float(((body >= low) & (body <= high)).mean())

    counts, edges = np.histogram(body, np.arange(_SOFT[0], _SOFT[1] + 1, 5))
    fullest = np.convolve(counts, np.ones(4), mode="valid").argmax()
    return _Shares(
        air=1 - body.size / hu.size,
        gap=share(_AIR, -200),
        fat=share(*_FAT),
        soft=share(*_SOFT),
        wide=share(-200, 200),
        bone=float((body > _BONE).mean()),
        peak=float(edges[fullest]) + 10,
    )


def _is_head_ct(shares: _Shares) -> bool:
    """Whether a histogram with air is that of a head CT beyond doubt, with a skull or without."""
    whole = shares.soft >= 0.45 and shares.gap <= 0.2 and 0.02 <= shares.bone <= 0.4
    return shares.air >= 0.02 and (whole or (shares.soft >= 0.85 and shares.gap <= 0.1))


def _is_ct_beyond_doubt(shares: _Shares) -> bool:
    """Whether values over air are CT and not MR with such a background: there is fat, or only a brain and bone."""
    return shares.fat >= _MIN_FAT or (shares.soft + shares.bone >= 0.9 and 20 <= shares.peak <= 45)


def _certainty_of_hu(sample: Values) -> Certainty:
    """Returns how certain it is that values are HU, unchanged."""
    low, high = float(sample.min()), float(sample.max())
    if low > 20 or low < -40000 or high > 40000:
        return "no"
    return _certainty_with_air(sample) if low <= -900 else _certainty_clipped(sample, low, high)


def _certainty_with_air(sample: Values) -> Certainty:
    """Judges values that reach down to air. Below it lie only values that fill the corners of the field of view."""
    shares = _shares(sample)
    air = sample[(sample <= _AIR) & (sample > -1300)]
    if shares is None or shares.air >= 0.95:
        return "probably"  # too little else: a slice of the vertex, or MR with such a background
    air_is_typical = shares.air >= 0.02 and (not air.size or -1100 <= float(np.median(air)) <= -900)
    typical = (shares.soft >= 0.25 and shares.gap <= 0.3) or (shares.wide >= 0.5 and shares.gap <= 0.15)
    if air_is_typical and _is_ct_beyond_doubt(shares) and (typical or _is_head_ct(shares)):
        return "sure"
    likely = typical or (shares.gap <= 0.3 and shares.wide >= 0.25 and shares.bone <= 0.5)
    return "probably" if likely else "perhaps"


def _certainty_clipped(sample: Values, low: float, high: float) -> Certainty:
    """Judges values that were clipped to a window: air is at its floor, and bone is at its ceiling or above 300."""
    body = sample[sample > low]
    if body.size > 0.9 * sample.size or body.size < 0.02 * sample.size:
        return "no"
    ceiling, bone = float((body >= high).mean()), float((body > _BONE).mean())
    tissue = body[(body > _SOFT[0]) & (body < high)]
    brain = float(((tissue >= 10) & (tissue <= 60)).mean()) if tissue.size else 0.0
    soft = float(((body >= _SOFT[0]) & (body <= _SOFT[1])).mean())
    round_limits = low < 0 and low % 10 == 0 and high % 10 == 0  # of a window; those of normalized MR are fractions
    if 60 <= high <= 400:
        if (0.1 if high <= 200 else 0.07) <= ceiling <= 0.5 and brain >= (0.65 if low >= 0 else 0.45):
            return "sure"
        if round_limits and ceiling >= 0.06:
            return "probably"
        return "perhaps" if brain >= 0.9 else "no"  # a brain without its skull
    between = float(((body > _SOFT[1]) & (body <= _BONE)).mean())
    if high > 400 and soft >= 0.55 and 0.05 <= bone <= 0.4 and between <= 0.2:
        return "sure" if low <= -150 else "perhaps" if bone <= 0.25 and brain >= 0.6 else "no"
    return "probably" if high > 400 and round_limits and low <= -150 else "no"


def _candidates(sample: Values) -> Iterator[tuple[_Layout, _Shares]]:
    """Yields the layouts whose range the values fit, with the shares in HU."""
    low, high = float(sample.min()), float(sample.max())
    for layout in _LAYOUTS:
        floor, top = layout.scale * low - layout.offset, layout.scale * high - layout.offset
        if -1100 <= floor <= -900 and 100 <= top <= 32767 and (layout.scale <= 1000 or high <= 1.001):
            shares = _shares(sample * np.float32(layout.scale) - np.float32(layout.offset))
            if shares is not None:
                yield layout, shares


def _stored_layout(sample: Values) -> tuple[_Layout, _Shares] | None:
    """Returns the offset or scale of stored HU with the shares in HU, if the histogram leaves no doubt."""
    found = [(layout, shares) for layout, shares in _candidates(sample) if _is_head_ct(shares)]
    return min(found, key=lambda pair: abs(pair[1].peak - 32)) if found else None


def _may_be_stored(sample: Values) -> bool:
    """Whether the values may be HU with an offset or scale, such as those of a slice with little brain."""
    return any(s.air >= 0.02 and s.soft >= 0.25 and s.gap <= 0.3 and s.bone >= 0.05 for _, s in _candidates(sample))
