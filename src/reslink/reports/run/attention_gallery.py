"""The attention gallery: where the network looked in right and in wrong cases."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.datasets.manifest import Case, Manifest
from reslink.errors import ReslinkError, StorageError
from reslink.explain.overlay import overlay
from reslink.files import write_atomic, write_json
from reslink.imaging.reading import read_image

if TYPE_CHECKING:
    from reslink.inference.classifier import Classifier

_SIDE, _GAP = 224, 6
_INDEX = "gallery.json"


@dataclass(frozen=True)
class GalleryCase:
    """One case of the gallery.

    Attributes:
        file: Name of the PNG: the image, the final attention and Grad-CAM side by side.
        label: True class.
        predicted: Predicted class.
        probability: Probability of the predicted class.
        right: Whether they are the same.
        maps: What stands beside the image, from left to right.
        mask: Whether the lesion is drawn as a contour.
    """

    file: str
    label: str
    predicted: str
    probability: float
    right: bool
    maps: list[str]
    mask: bool


def attention_gallery(
    classifier: Classifier,
    manifest: Manifest,
    predictions: str | Path,
    out: str | Path,
    *,
    right: int = 6,
    wrong: int = 6,
) -> list[GalleryCase]:
    """Draws right and wrong cases of an evaluation, and writes ``gallery_NN.png`` and ``gallery.json``.

    Wrong cases come first, the surest first; then right cases of each class in turn, the surest first. A two-class
    network is explained for its positive class, one of more for the class predicted.

    Args:
        classifier: The bundle that made the predictions.
        manifest: The cases, with their files and masks.
        predictions: ``predictions.csv`` of the evaluation.
        out: The folder ``figures`` of the run; a gallery that stands there is replaced.
        right: Right cases at most.
        wrong: Wrong cases at most.

    Returns:
        The cases drawn; a file that can no longer be read is left out.

    Raises:
        StorageError: If the pictures cannot be written.
    """
    with Path(predictions).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    folder, known = Path(out), {case.name: case for case in manifest.cases}
    for old in folder.glob("gallery*"):
        old.unlink()
    drawn: list[GalleryCase] = []
    for row in chosen(rows, right, wrong):
        case = known.get(row["sample_id"].removeprefix("'")) or known.get(row["sample_id"])
        shown = None if case is None else _draw(classifier, case, row, f"gallery_{len(drawn) + 1:02d}.png")
        if shown is not None:
            drawn.append(shown[0])
            write_atomic(folder / shown[0].file, shown[1])
    write_json(folder / _INDEX, [asdict(case) for case in drawn])
    return drawn


def chosen(rows: Iterable[Mapping[str, str]], right: int, wrong: int) -> list[Mapping[str, str]]:
    """Returns the rows of ``predictions.csv`` to show: surest wrong ones, then surest right ones of each class in turn.

    Each patient or twin group is shown once before one is shown again.

    Args:
        rows: With ``label``, ``prediction``, ``group`` and ``p_<class>``.
        right: Right rows at most.
        wrong: Wrong rows at most.
    """
    ranked = sorted(rows, key=_sureness, reverse=True)
    mistakes = _spread([row for row in ranked if row["label"] != row["prediction"]])
    by_class: dict[str, list[Mapping[str, str]]] = {}
    for row in ranked:
        if row["label"] == row["prediction"]:
            by_class.setdefault(row["label"], []).append(row)
    turns = sorted((i, label) for label, found in by_class.items() for i in range(len(found)))
    spread = {label: _spread(found) for label, found in by_class.items()}
    return [*mistakes[:wrong], *(spread[label][i] for i, label in turns[:right])]


def _spread(rows: list[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Puts the first row of each group before the second of any."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row["group"]])
        seen[row["group"]] += 1
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: turns[i])]


def _sureness(row: Mapping[str, str]) -> float:
    return float(row[f"p_{row['prediction']}"])


def _draw(classifier: Classifier, case: Case, row: Mapping[str, str], file: str) -> tuple[GalleryCase, bytes] | None:
    """Returns a case and its picture, None where a file can no longer be read."""
    from reslink.explain.display import TITLES, for_display, least_span
    from reslink.explain.maps import heat_maps

    preprocess, labels = classifier.bundle.preprocess, classifier.labels
    try:
        image = read_image(case.path).slices()[0]
        pixels = preprocess.pixels(image)
        mask = None if case.mask is None else preprocess.place(image).to_network(read_image(case.mask).slices()[0].pixels)
    except StorageError:
        raise
    except ReslinkError:
        return None
    target = 1 if labels.binary else labels.index(row["prediction"])
    heats = heat_maps(classifier, pixels, target, ("final_attention", "grad_cam"))
    drawn = [np.repeat(pixels[0][..., None], 3, axis=2)]
    drawn += [overlay(pixels[0], for_display(name, heat), mask, least=least_span(name)) for name, heat in heats.items()]
    about = GalleryCase(
        file,
        row["label"],
        row["prediction"],
        _sureness(row),
        row["label"] == row["prediction"],
        [TITLES[name] for name in heats],
        mask is not None and bool(mask.any()),
    )
    return about, _png(drawn)


def _png(tiles: list[NDArray[np.uint8]]) -> bytes:
    """Puts square tiles side by side on black."""
    strip = np.zeros((_SIDE, len(tiles) * (_SIDE + _GAP) - _GAP, 3), np.uint8)
    for i, tile in enumerate(tiles):
        left = i * (_SIDE + _GAP)
        small = Picture.fromarray(tile).resize((_SIDE, _SIDE), Picture.Resampling.BICUBIC)
        strip[:, left : left + _SIDE] = np.asarray(small)
    buffer = io.BytesIO()
    Picture.fromarray(strip).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
