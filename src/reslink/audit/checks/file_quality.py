"""Files that do not belong where they stand: broken, blank, no head, turned, of another modality, window or scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from reslink.audit.features.image import Facts, facts

__all__ = ["KINDS", "Facts", "Finding", "check", "facts"]

Kind = Literal[
    "corrupt", "blank", "tiny", "not_a_head", "wrong_orientation", "other_modality", "mixed_windows", "implausible_hu"
]
KINDS: Final[tuple[Kind, ...]] = (
    "corrupt",
    "blank",
    "tiny",
    "not_a_head",
    "wrong_orientation",
    "other_modality",
    "mixed_windows",
    "implausible_hu",
)

AGAINST_THE_REST: Final[tuple[Kind, ...]] = ("not_a_head", "wrong_orientation", "other_modality", "mixed_windows")
"""Kinds for which a file is held against the others; ``not_a_head`` for what is like no other head."""

SMALLEST_SIDE: Final = 64
"""Below this many pixels a side nothing of a brain can be judged."""

SMALLEST_HEAD: Final = 48
"""The same for the longer side of the head in the picture."""

SMALLEST_COHORT: Final = 20
"""With fewer images a file is judged by itself only."""

LEAST_ROUND: Final = 0.6
"""Overlap with an ellipse; heads, also sagittal ones with a face, have 0.66 to 0.98."""

ROUGHEST: Final = 0.5
"""Of the variance, between neighbouring pixels; heads have up to 0.28, noise has 1."""

LEAST_DARK: Final = 0.1
"""Share of the surroundings that is dark; heads, also with text and tables around them, have 0.2 and more."""

DENSEST: Final = 0.2
"""Share of pixels above 900 HU; dense bone takes a few percent."""

CT_WHITE: Final = 0.1
MR_WHITE: Final = 0.05
"""Shares of white: the skull of a CT in a brain window covers more of the head than fat and vessels do in MR."""

MOST_COMPARED: Final = 2000
NEIGHBOUR: Final = 5
UNLIKE: Final = 0.45
"""Heads are compared with up to 2,000 others; one whose fifth nearest correlates less than this is like none."""

TURNED: Final = 0.1
"""How much more a turned head correlates with the usual head than as it stands."""

RARE: Final = 0.2
"""What up to this share of the data set has is held against the rest; above, the data set is mixed on purpose."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file.

    Attributes:
        path: The case's name.
        kind: One of ``KINDS``.
        message: What was measured and what was expected, a sentence without the full stop.
    """

    path: str
    kind: Kind
    message: str


def check(names: Sequence[str], measured: Sequence[Facts | str]) -> tuple[list[Finding], dict[Kind, str]]:
    """Judges every file by itself and against the others.

    A file is held against the others by the median and the median absolute deviation (Rousseeuw and Croux 1993), which up
    to half of the files being wrong cannot move; with fewer than 20 images that part is left out.

    Args:
        names: The cases' names.
        measured: The facts of each, or the message that says why it cannot be read.

    Returns:
        The findings, in the order of the names, for one file in the order of ``KINDS``; and why files could not be held
        against the others, by kind.
    """
    found: list[Finding] = []
    good: list[tuple[str, Facts]] = []
    for name, item in zip(names, measured, strict=True):
        alone: list[tuple[Kind, str]] = [("corrupt", item)] if isinstance(item, str) else list(_alone(item))
        found += [Finding(name, kind, message) for kind, message in alone]
        if not isinstance(item, str) and not {"blank", "not_a_head"} & {kind for kind, _ in alone}:
            good.append((name, item))
    skipped: dict[Kind, str] = {}
    if len(good) >= SMALLEST_COHORT:
        against, skipped = _against_the_rest(good)
        found += against
    else:
        few = f"{len(good)} images look like heads, and fewer than {SMALLEST_COHORT} are not held against each other"
        skipped = dict.fromkeys(AGAINST_THE_REST, few)
    place = {name: i for i, name in enumerate(names)}
    return sorted(found, key=lambda finding: (place[finding.path], KINDS.index(finding.kind))), skipped


def _alone(item: Facts) -> Iterator[tuple[Kind, str]]:
    """What is wrong with a file whatever the others are."""
    height, width = item.shape
    if item.contrast < (20.0 if item.unit == "HU" else 0.02):
        yield "blank", "all its pixels have nearly the same value"
        return
    if min(height, width) < SMALLEST_SIDE:
        yield "tiny", f"it has {width} x {height} pixels; {SMALLEST_SIDE} a side are the least"
    elif 0 < max(item.head) < SMALLEST_HEAD:
        yield "tiny", f"its head is {item.head[1]} x {item.head[0]} pixels; {SMALLEST_HEAD} are the least"
    if item.head == (0, 0):
        yield "not_a_head", "no head was found in it"
    elif item.roundness < LEAST_ROUND:
        yield "not_a_head", f"its main piece has no head's outline (overlap with an ellipse {item.roundness:.2f})"
    elif item.background < LEAST_DARK and item.head_share < 0.95:
        yield "not_a_head", f"what surrounds its main piece is not dark (only {item.background:.0%} of it is)"
    elif item.roughness > ROUGHEST:
        yield "not_a_head", f"its main piece is noise (neighbours differ by {item.roughness:.0%} of the variance)"
    if item.unit == "HU":
        yield from _hounsfield(item)


def _hounsfield(item: Facts) -> Iterator[tuple[Kind, str]]:
    """Air is −1000 HU and brain 20 to 45 HU (Hounsfield 1973); wide limits leave room for padding, noise and disease."""
    if item.air is not None and not -3100 <= item.air <= -600:
        yield "implausible_hu", f"what surrounds the head has {item.air:.0f} HU, and air has −1000 HU"
    if item.dense > DENSEST:
        yield (
            "implausible_hu",
            f"{item.dense:.0%} of it lies above 900 HU, where only dense bone does; the intercept may be missing",
        )
    if item.brain is None:
        yield "implausible_hu", "nothing in the head lies between −200 and 200 HU"
    elif not -20 <= item.brain <= 90:
        yield "implausible_hu", f"the head's soft tissue has {item.brain:.0f} HU, and brain has 20 to 45 HU"


def _against_the_rest(good: list[tuple[str, Facts]]) -> tuple[list[Finding], dict[Kind, str]]:
    items = [item for _, item in good]
    odd = _unlike(items)
    windows, no_window = _other_window(items)
    turned, no_orientation = _turned(items)
    kinds: list[tuple[Kind, dict[int, str]]] = [
        ("not_a_head", odd),
        ("other_modality", _other_modality(items)),
        ("mixed_windows", windows),
        ("wrong_orientation", {i: message for i, message in turned.items() if i not in odd}),
    ]
    reasons: list[tuple[Kind, str]] = [("mixed_windows", no_window), ("wrong_orientation", no_orientation)]
    found = [Finding(good[i][0], kind, message) for kind, found in kinds for i, message in found.items()]
    return found, {kind: reason for kind, reason in reasons if reason}


def _unlike(items: list[Facts]) -> dict[int, str]:
    """Outliers by the correlation, turned and mirrored, with the fifth most alike head (Ramaswamy et al. 2000)."""
    heads = np.stack([item.thumbnail for item in items]).astype(np.float64)
    others = np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST_COMPARED)).astype(int))
    flat = _standard(heads)
    ways = [_standard(np.rot90(side, turns, axes=(1, 2))) for side in (heads, heads[:, :, ::-1]) for turns in range(4)]
    nearest = np.empty(len(items))
    for start in range(0, len(items), 512):
        rows = slice(start, min(start + 512, len(items)))
        alike = np.max([way[rows] @ flat[others].T for way in ways], axis=0)
        alike[np.arange(rows.start, rows.stop)[:, None] == others[None, :]] = -1
        nearest[rows] = np.sort(alike, axis=1)[:, -NEIGHBOUR]
    far = (nearest < UNLIKE) | ((nearest < 0.65) & (_deviations(nearest) > 6) & (nearest < np.median(nearest)))
    usual = float(np.median(nearest))
    return {
        int(i): f"it is like no other head (correlation {nearest[i]:.2f} with the fifth nearest, usually {usual:.2f})"
        for i in np.flatnonzero(far)
    }


def _rare(values: Sequence[str]) -> dict[int, str]:
    """Indices of what differs from what most have, with that."""
    known = Counter(value for value in values if value)
    if not known:
        return {}
    usual, count = known.most_common(1)[0]
    if not 0 < sum(known.values()) - count <= RARE * sum(known.values()):
        return {}
    return {i: usual for i, value in enumerate(values) if value and value != usual}


def _other_modality(items: list[Facts]) -> dict[int, str]:
    """By what the files say; pictures, which say nothing, by how much of the head is white."""
    said = [item.modality or {"HU": "CT"}.get(item.unit, "") for item in items]
    shown = ["" if text else _looks_like(item) for text, item in zip(said, items, strict=True)]
    found = {i: f"it is {said[i]}, most files are {usual}" for i, usual in _rare(said).items()}
    return found | {i: f"it looks like {shown[i]}, most pictures look like {usual}" for i, usual in _rare(shown).items()}


def _looks_like(item: Facts) -> str:
    if item.white > CT_WHITE:
        return "CT"
    return "MR" if item.white < MR_WHITE else ""


def _other_window(items: list[Facts]) -> tuple[dict[int, str], str]:
    """CT pictures whose brain is much darker or brighter than in the others; and why that could not be looked for."""
    pictures = [i for i, item in enumerate(items) if item.unit == "grey" and (item.modality == "CT" or item.white > CT_WHITE)]
    if len(pictures) < SMALLEST_COHORT:
        plain = any(item.unit == "grey" for item in items)  # HU and MR intensities have no window
        few = f"{len(pictures)} of the pictures look like CT, and fewer than {SMALLEST_COHORT} are not held against each other"
        return {}, few if plain else ""
    levels = np.array([items[i].level for i in pictures])
    far = _deviations(levels)
    return {
        pictures[i]: f"its brain has grey {levels[i]:.2f} of white, the others' {np.median(levels):.2f}"
        for i in np.flatnonzero((far > 6) & (np.abs(levels - np.median(levels)) > 0.2))
    }, ""


def _deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the median in robust standard deviations."""
    away = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(away))
    return np.asarray(away / max(spread, 1e-9))


def _turned(items: list[Facts]) -> tuple[dict[int, str], str]:
    """By the plane that the files say, else by the picture of the head against the others' median; and why not by that."""
    found = {i: f"it is {items[i].plane}, most files are {usual}" for i, usual in _rare([item.plane for item in items]).items()}
    heads = np.stack([item.thumbnail for item in items]).astype(np.float64)
    typical = np.median(heads, axis=0)
    fits = np.stack([_correlation(np.rot90(heads, turns, axes=(1, 2)), typical) for turns in range(4)])
    if not np.median(fits[0]) > 0.6:
        return found, "the heads are not alike, as in several planes, so that none is the usual orientation"
    best = fits.argmax(axis=0)
    gain = fits[1:].max(axis=0) - fits[0]
    clear = (fits.max(axis=0) > 0.6) & ((gain > TURNED) | ((gain > TURNED / 3) & (_deviations(gain) > 6)))
    for i in np.flatnonzero(clear & (best > 0)):
        found.setdefault(
            int(i),
            f"turned by {90 * min(best[i], 4 - best[i])}° it would look more like most others: another plane or orientation",
        )
    return found, ""


def _correlation(heads: NDArray[np.float64], typical: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of each (n, S, S) picture, or its mirror image, with one."""
    pattern = _standard(typical)
    return np.asarray(np.maximum(_standard(heads) @ pattern, _standard(heads[:, :, ::-1]) @ pattern))


def _standard(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pictures as vectors of mean 0 and length 1, (..., S * S)."""
    flat = planes.reshape(*planes.shape[:-2], -1)
    centred = flat - flat.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-9))
