"""File quality checks: unreadable, blank, not a head, rotated, or of another modality, window or scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.audit.features.image import THUMBNAIL, ImageFeatures

Pictures: TypeAlias = NDArray[np.uint8]
"""(n, 24, 24) pictures of heads."""

Kind = Literal[
    "corrupt", "blank", "tiny", "not_a_head", "wrong_orientation", "other_modality", "mixed_windows", "implausible_hu"
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Real = TypeVar("Real", bound=np.floating[Any])

COHORT_KINDS: Final[tuple[Kind, ...]] = ("not_a_head", "wrong_orientation", "other_modality", "mixed_windows")
"""Kinds that need the other files: they are found by comparison with the rest of the data set."""

MIN_IMAGE_SIDE: Final = 64
"""Minimum side of an image in pixels. Smaller images do not show the brain well enough."""

MIN_HEAD_SIDE: Final = 48
"""Minimum of the longer side of the head in pixels."""

MIN_COHORT: Final = 20
"""Minimum number of images for a comparison between files."""

MIN_ROUNDNESS: Final = 0.6
"""Overlap with an ellipse. Heads, also sagittal ones with a face, have 0.66 to 0.98."""

MAX_ROUGHNESS: Final = 0.5
"""Share of the variance between neighboring pixels. Heads have up to 0.28, noise has 1."""

MIN_DARK_BACKGROUND: Final = 0.1
"""Share of the surroundings that is dark. Heads, also with text and tables around them, have 0.2 and more."""

MAX_DENSE_SHARE: Final = 0.2
"""Share of pixels above 900 HU. Dense bone covers a few percent."""

MIN_CT_WHITE: Final = 0.1
MAX_MR_WHITE: Final = 0.05
"""Shares of white: the skull of a CT in a brain window covers more of the head than fat and vessels do in MR."""

CHUNK_SIZE: Final = 512
"""Number of pictures that are compared at once."""

MAX_COMPARED: Final = 2000
NEIGHBOR_RANK: Final = 5
MIN_CORRELATION: Final = 0.45
"""Heads are compared with up to 2,000 others. A head is an outlier if its fifth nearest neighbor correlates less than this."""

MIN_ROTATION_GAIN: Final = 0.1
"""Minimum gain in correlation with the typical head for a rotation to be reported."""

MAX_MINORITY_SHARE: Final = 0.2
"""A property that more than this share of the data set has is not reported: the data set is mixed on purpose."""


@dataclass(frozen=True)
class Finding:
    """A problem of one file.

    Attributes:
        path: Name of the case.
        kind: One of ``KINDS``.
        message: The measured and the expected value, one sentence without the full stop.
    """

    path: str
    kind: Kind
    message: str


class _Head(NamedTuple):
    """What the comparison between files needs of an image that looks like a head, beside its picture.

    Attributes:
        name: Name of its case.
        unit: See ``ImageFeatures``, as for the others.
        modality: The stated modality.
        plane: The stated plane.
        white: Share of white.
        level: Median gray value.
    """

    name: str
    unit: str
    modality: str
    plane: str
    white: float
    level: float


def check_files(names: Sequence[str], items: Iterable[ImageFeatures | str]) -> tuple[list[Finding], dict[Kind, str]]:
    """Checks every file by itself and against the others.

    Files are compared by the median and the median absolute deviation (Rousseeuw and Croux 1993), which stay valid while fewer
    than half of the files are wrong. With fewer than 20 images the comparison is skipped.

    Args:
        names: Names of the cases.
        items: The features of each case, or the message that explains why it cannot be read; used one by one.

    Returns:
        The findings, in the order of the names, for one file in the order of ``KINDS``; and the reason for each kind of
        comparison that was skipped.
    """
    findings: list[Finding] = []
    heads: list[_Head] = []
    pictures = bytearray()
    for name, item in zip(names, items, strict=True):
        problems: list[tuple[Kind, str]] = [("corrupt", item)] if isinstance(item, str) else list(_check_single(item))
        findings += [Finding(name, kind, message) for kind, message in problems]
        if not isinstance(item, str) and not {"blank", "not_a_head"} & {kind for kind, _ in problems}:
            heads.append(_Head(name, item.unit, item.modality, item.plane, item.white, item.level))
            pictures += item.thumbnail.tobytes()
    skipped: dict[Kind, str] = {}
    if len(heads) >= MIN_COHORT:
        cohort_findings, skipped = _check_cohort(heads, np.frombuffer(pictures, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL))
        findings += cohort_findings
    else:
        reason = f"{len(heads)} images look like heads, and a comparison needs at least {MIN_COHORT}"
        skipped = dict.fromkeys(COHORT_KINDS, reason)
    order = {name: i for i, name in enumerate(names)}
    return sorted(findings, key=lambda finding: (order[finding.path], KINDS.index(finding.kind))), skipped


def _check_single(item: ImageFeatures) -> Iterator[tuple[Kind, str]]:
    """Yields the problems that do not depend on other files."""
    height, width = item.shape
    if item.contrast < (20.0 if item.unit == "HU" else 0.02):
        yield "blank", "all pixels have nearly the same value"
        return
    if min(height, width) < MIN_IMAGE_SIDE:
        yield "tiny", f"it has {width} x {height} pixels; the minimum is {MIN_IMAGE_SIDE} on each side"
    elif 0 < max(item.head) < MIN_HEAD_SIDE:
        yield "tiny", f"its head has {item.head[1]} x {item.head[0]} pixels; the longer side needs at least {MIN_HEAD_SIDE}"
    if item.head == (0, 0):
        yield "not_a_head", "no head was found"
    elif item.roundness < MIN_ROUNDNESS:
        yield (
            "not_a_head",
            f"its main object does not have the outline of a head (overlap with an ellipse {item.roundness:.2f})",
        )
    elif item.background < MIN_DARK_BACKGROUND and item.head_share < 0.95:
        yield "not_a_head", f"only {item.background:.0%} of the background is dark"
    elif item.roughness > MAX_ROUGHNESS:
        yield "not_a_head", f"its main object is noise ({item.roughness:.0%} of the variance is between neighboring pixels)"
    if item.unit == "HU":
        yield from _check_hounsfield_units(item)


def _check_hounsfield_units(item: ImageFeatures) -> Iterator[tuple[Kind, str]]:
    """Compares with air at −1000 HU and brain at 20 to 45 HU (Hounsfield 1973); the limits allow for padding and disease."""
    if item.air is not None and not -3100 <= item.air <= -600:
        yield "implausible_hu", f"the background has {item.air:.0f} HU, but air has −1000 HU"
    if item.dense > MAX_DENSE_SHARE:
        yield (
            "implausible_hu",
            f"{item.dense:.0%} of the pixels are above 900 HU, but only dense bone is; the rescale intercept may be missing",
        )
    if item.brain is None:
        yield "implausible_hu", "no pixel of the head is between −200 and 200 HU"
    elif not -20 <= item.brain <= 90:
        yield "implausible_hu", f"the soft tissue of the head has {item.brain:.0f} HU, but brain has 20 to 45 HU"


def _check_cohort(heads: list[_Head], pictures: Pictures) -> tuple[list[Finding], dict[Kind, str]]:
    """Compares each head with the others."""
    outliers = _find_outliers(pictures)
    windows, windows_skipped = _find_other_windows(heads)
    rotated, rotation_skipped = _find_rotated([head.plane for head in heads], pictures)
    problems: list[tuple[Kind, dict[int, str]]] = [
        ("not_a_head", outliers),
        ("other_modality", _find_other_modalities(heads)),
        ("mixed_windows", windows),
        ("wrong_orientation", {i: message for i, message in rotated.items() if i not in outliers}),
    ]
    reasons: list[tuple[Kind, str]] = [("mixed_windows", windows_skipped), ("wrong_orientation", rotation_skipped)]
    findings = [Finding(heads[i].name, kind, message) for kind, messages in problems for i, message in messages.items()]
    return findings, {kind: reason for kind, reason in reasons if reason}


def _find_outliers(pictures: Pictures) -> dict[int, str]:
    """Finds outliers by the correlation, over all orientations, with the fifth nearest head (Ramaswamy et al. 2000)."""
    others = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), MAX_COMPARED)).astype(int))
    compared = _standardized(pictures[others].astype(np.float32))
    nearest = np.empty(len(pictures))
    for start in range(0, len(pictures), CHUNK_SIZE):
        chunk = pictures[start : start + CHUNK_SIZE].astype(np.float32)
        rows = np.arange(start, start + len(chunk))
        similarity = np.full((len(chunk), len(others)), -1, np.float32)
        for planes in (chunk, chunk[:, :, ::-1]):
            for turns in range(4):
                oriented = _standardized(np.rot90(planes, turns, axes=(1, 2)))
                np.maximum(similarity, oriented @ compared.T, out=similarity)
        similarity[rows[:, None] == others[None, :]] = -1
        nearest[rows] = np.partition(similarity, -NEIGHBOR_RANK, axis=1)[:, -NEIGHBOR_RANK]
    far = (nearest < MIN_CORRELATION) | ((nearest < 0.65) & (_robust_deviations(nearest) > 6) & (nearest < np.median(nearest)))
    usual = float(np.median(nearest))
    return {
        int(
            i
        ): f"it does not look like the other heads (correlation with the fifth nearest {nearest[i]:.2f}, usually {usual:.2f})"
        for i in np.flatnonzero(far)
    }


def _find_minority(values: Sequence[str]) -> dict[int, str]:
    """Returns the indices of values that differ from the most common one, each with that value; '' counts as unknown."""
    counts = Counter(value for value in values if value)
    if not counts:
        return {}
    usual, count = counts.most_common(1)[0]
    if not 0 < sum(counts.values()) - count <= MAX_MINORITY_SHARE * sum(counts.values()):
        return {}
    return {i: usual for i, value in enumerate(values) if value and value != usual}


def _find_other_modalities(items: Sequence[_Head]) -> dict[int, str]:
    """Compares the modality that files state; pictures without one are compared by the share of white in the head."""
    stated = [item.modality or {"HU": "CT"}.get(item.unit, "") for item in items]
    apparent = ["" if text else _apparent_modality(item) for text, item in zip(stated, items, strict=True)]
    messages = {i: f"it is {stated[i]}; most files are {usual}" for i, usual in _find_minority(stated).items()}
    return messages | {
        i: f"it looks like {apparent[i]}; most pictures look like {usual}" for i, usual in _find_minority(apparent).items()
    }


def _apparent_modality(item: _Head) -> str:
    if item.white > MIN_CT_WHITE:
        return "CT"
    return "MR" if item.white < MAX_MR_WHITE else ""


def _find_other_windows(items: Sequence[_Head]) -> tuple[dict[int, str], str]:
    """Finds CT pictures whose brain is much darker or brighter than in the others; the text says why it was skipped."""
    pictures = [
        i for i, item in enumerate(items) if item.unit == "gray" and (item.modality == "CT" or item.white > MIN_CT_WHITE)
    ]
    if len(pictures) < MIN_COHORT:
        has_pictures = any(item.unit == "gray" for item in items)  # HU and MR intensities have no window
        reason = f"{len(pictures)} pictures look like CT, and a comparison needs at least {MIN_COHORT}"
        return {}, reason if has_pictures else ""
    levels = np.array([items[i].level for i in pictures])
    deviations = _robust_deviations(levels)
    return {
        pictures[i]: f"its brain has {levels[i]:.2f} of white; the median of the others is {np.median(levels):.2f}"
        for i in np.flatnonzero((deviations > 6) & (np.abs(levels - np.median(levels)) > 0.2))
    }, ""


def _robust_deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns distances from the median in robust standard deviations."""
    distance = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(distance))
    return np.asarray(distance / max(spread, 1e-9))


def _find_rotated(planes: Sequence[str], pictures: Pictures) -> tuple[dict[int, str], str]:
    """Compares the plane that files state, and the head with the median head; the text says why the latter was skipped."""
    messages = {i: f"it is {planes[i]}; most files are {usual}" for i, usual in _find_minority(planes).items()}
    typical = np.median(pictures, axis=0)
    fits = np.empty((4, len(pictures)))
    for start in range(0, len(pictures), CHUNK_SIZE):
        heads = pictures[start : start + CHUNK_SIZE].astype(np.float64)
        fits[:, start : start + CHUNK_SIZE] = [_correlation(np.rot90(heads, turns, axes=(1, 2)), typical) for turns in range(4)]
    if not np.median(fits[0]) > 0.6:
        return messages, "the heads are too different to have a usual orientation, for example because of several planes"
    best = fits.argmax(axis=0)
    gain = fits[1:].max(axis=0) - fits[0]
    outlying = (gain > MIN_ROTATION_GAIN / 3) & (_robust_deviations(gain) > 6)
    clear = (fits.max(axis=0) > 0.6) & ((gain > MIN_ROTATION_GAIN) | outlying)
    for i in np.flatnonzero(clear & (best > 0)):
        angle = 90 * min(best[i], 4 - best[i])
        messages.setdefault(int(i), f"rotated by {angle}° it would look more like the others: another plane or orientation")
    return messages, ""


def _correlation(heads: NDArray[np.float64], typical: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns Pearson's correlation of each (n, S, S) picture, or its mirror image, with the typical one."""
    pattern = _standardized(typical)
    return np.asarray(np.maximum(_standardized(heads) @ pattern, _standardized(heads[:, :, ::-1]) @ pattern))


def _standardized(planes: NDArray[Real]) -> NDArray[Real]:
    """Returns pictures as vectors of mean 0 and length 1, (..., S * S)."""
    flat = planes.reshape(*planes.shape[:-2], -1)
    centered = flat - flat.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=-1, keepdims=True)
    return np.asarray(centered / np.maximum(lengths, planes.dtype.type(1e-9)))
