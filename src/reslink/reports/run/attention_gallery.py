"""The attention gallery: attention and Grad-CAM maps of correct and wrong cases."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, StorageError
from reslink.explain.overlay import overlay
from reslink.files import write_atomic, write_json
from reslink.imaging.image import Image
from reslink.imaging.lesion_mask import aligned_mask
from reslink.imaging.reading import read_image
from reslink.imaging.series_slices import read_series_slices

if TYPE_CHECKING:
    from reslink.inference.classifier import Classifier

_SIDE, _GAP = 224, 6
_INDEX = "gallery.json"
_EXPLAINED = "explained label"


@dataclass(frozen=True)
class GalleryCase:
    """One case of the gallery.

    Attributes:
        file: Name of the PNG: the image, the final attention and Grad-CAM side by side.
        label: True class.
        predicted: Predicted class.
        probability: Probability of the predicted class.
        correct: Whether the prediction is correct.
        maps: Names of the maps beside the image, from left to right.
        mask: Whether the lesion is drawn as a contour.
    """

    file: str
    label: str
    predicted: str
    probability: float
    correct: bool
    maps: list[str]
    mask: bool


def attention_gallery(
    classifier: Classifier,
    manifest: Manifest,
    predictions: str | Path,
    out: str | Path,
    *,
    n_correct: int = 6,
    n_wrong: int = 6,
) -> list[GalleryCase]:
    """Draws correct and wrong cases of an evaluation, and writes ``gallery_NN.png`` and ``gallery.json``.

    Wrong cases come first, ordered by confidence; then correct cases of each class in turn, ordered by confidence. A two-class
    network is explained for its positive class, a network with more classes for the predicted class. Of several labels at once,
    each case is shown for its most probable label, if the state of that one is known.

    Args:
        classifier: The bundle that made the predictions.
        manifest: The cases, with their files and masks.
        predictions: ``predictions.csv`` of the evaluation.
        out: The ``figures`` folder of the run; an existing gallery is replaced.
        n_correct: Maximum number of correct cases.
        n_wrong: Maximum number of wrong cases.

    Returns:
        The drawn cases; files that can no longer be read are skipped.

    Raises:
        StorageError: If the pictures cannot be written.
    """
    with Path(predictions).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["prediction"] != ""]  # not the refused cases
    if not classifier.labels.exclusive:
        rows = [row for row in (_most_probable_label(row, classifier.labels.names) for row in rows) if row is not None]
    folder, case_of = Path(out), {case.name: case for case in manifest.cases}
    for old in folder.glob("gallery*"):
        old.unlink()
    drawn: list[GalleryCase] = []
    for row in select_gallery_cases(rows, n_correct, n_wrong):
        case = case_of.get(row["sample_id"].removeprefix("'")) or case_of.get(row["sample_id"])
        shown = None if case is None else _draw(classifier, case, row, f"gallery_{len(drawn) + 1:02d}.png")
        if shown is not None:
            drawn.append(shown[0])
            write_atomic(folder / shown[0].file, shown[1])
    write_json(folder / _INDEX, [asdict(case) for case in drawn])
    return drawn


def _most_probable_label(row: dict[str, str], names: Sequence[str]) -> dict[str, str] | None:
    """Returns a row of ``predictions.csv`` as that of a two-class task for its most probable label; None if it is unknown."""
    name = max(names, key=lambda label: float(row[f"p_{label}"]))
    if not row[f"true_{name}"]:
        return None
    probability, texts = float(row[f"p_{name}"]), {"0": f"not {name}", "1": name}
    label, prediction = texts[row[f"true_{name}"]], texts[row[f"predicted_{name}"]]
    confidence = probability if prediction == name else 1 - probability
    return row | {"label": label, "prediction": prediction, f"p_{prediction}": repr(confidence), _EXPLAINED: name}


def select_gallery_cases(rows: Iterable[Mapping[str, str]], n_correct: int, n_wrong: int) -> list[Mapping[str, str]]:
    """Returns the rows of ``predictions.csv`` to show: wrong cases by confidence, then correct cases of each class in turn.

    Each patient or duplicate group is shown once before one is shown again.

    Args:
        rows: With ``label``, ``prediction``, ``group`` and ``p_<class>``.
        n_correct: Maximum number of correct cases.
        n_wrong: Maximum number of wrong cases.
    """
    ranked = sorted(rows, key=_confidence, reverse=True)
    wrong = _groups_in_turn([row for row in ranked if row["label"] != row["prediction"]])
    by_class: dict[str, list[Mapping[str, str]]] = {}
    for row in ranked:
        if row["label"] == row["prediction"]:
            by_class.setdefault(row["label"], []).append(row)
    correct = {label: _groups_in_turn(class_rows) for label, class_rows in by_class.items()}
    order = sorted((i, label) for label, class_rows in correct.items() for i in range(len(class_rows)))
    return [*wrong[:n_wrong], *(correct[label][i] for i, label in order[:n_correct])]


def _groups_in_turn(rows: list[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Puts the first row of each group before the second row of any."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row["group"]])
        seen[row["group"]] += 1
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: turns[i])]


def _confidence(row: Mapping[str, str]) -> float:
    return float(row[f"p_{row['prediction']}"])


def _draw(classifier: Classifier, case: Case, row: Mapping[str, str], file: str) -> tuple[GalleryCase, bytes] | None:
    """Returns a case and its picture; None if a file can no longer be read."""
    from reslink.explain.attribution import has_feature_map
    from reslink.explain.display import TITLES, display_values, min_display_span
    from reslink.explain.heat_maps import heat_maps

    preprocess, labels = classifier.bundle.preprocess, classifier.labels
    try:
        image = _shown_slice(classifier, case)
        pixels = preprocess.pixels(image)
        mask = None
        if case.mask is not None:
            lesion = aligned_mask(read_image(case.mask).slices()[0], image)
            mask = preprocess.placement(image).to_network(lesion.pixels)
    except StorageError:
        raise
    except ReslinkError:
        return None
    target = 1 if labels.binary else labels.index(row.get(_EXPLAINED) or row["prediction"])
    methods = ("final_attention", "grad_cam") if has_feature_map(classifier.network) else ("integrated_gradients",)
    heats = heat_maps(classifier, pixels, target, methods)
    drawn = [np.repeat(pixels[0][..., None], 3, axis=2)]
    head = preprocess.resized_head_mask(image) if preprocess.isolate_head else np.ones(pixels.shape[1:], np.bool_)
    drawn += [
        overlay(pixels[0], display_values(name, heat), mask, min_span=min_display_span(name), visible=head)
        for name, heat in heats.items()
    ]
    gallery_case = GalleryCase(
        file,
        row["label"],
        row["prediction"],
        _confidence(row),
        row["label"] == row["prediction"],
        [TITLES[name] for name in heats],
        mask is not None and bool(mask.any()),
    )
    return gallery_case, _png(drawn)


def _shown_slice(classifier: Classifier, case: Case) -> Image:
    """Returns the slice of a case, or the slice of a series with the largest weight."""
    if classifier.bundle.case == "slice":
        return read_image(case.path, case.unit).slices()[0]
    from reslink.inference.series_answers import view_series

    series = read_series_slices(case.path, case.name, case.unit)
    view = view_series(classifier, series, case.name, sequence=case.sequence)
    return view.slices.planes[0 if view.answer.result is None else view.answer.result.used[0]]


def _png(tiles: list[NDArray[np.uint8]]) -> bytes:
    """Puts square tiles side by side on black."""
    strip = np.zeros((_SIDE, len(tiles) * (_SIDE + _GAP) - _GAP, 3), np.uint8)
    for i, tile in enumerate(tiles):
        left = i * (_SIDE + _GAP)
        small = Picture.fromarray(tile).resize((_SIDE, _SIDE), Picture.Resampling.BICUBIC)
        strip[:, left : left + _SIDE] = np.asarray(small)
    buffer = io.BytesIO()
    Picture.fromarray(strip).save(buffer, "PNG")
    return buffer.getvalue()
