"""A scikit-learn estimator over the package's own training: images in, ``fit``, ``predict_proba``."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.imaging.formats.numpy_array import image_of
from reslink.imaging.image import Unit
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier, Prediction
from reslink.labels import Labels
from reslink.training.recipe.recipe import load_recipe
from reslink.training.trainer import train

Images: TypeAlias = NDArray[Any] | Sequence[str | Path | NDArray[Any]]
"""(n, H, W) numbers, or n paths, or n arrays (H, W)."""


class ResLinkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """ResLink as a scikit-learn classifier of images.

    ``fit`` writes arrays as files, and trains as ``reslink train`` does: the same preprocessing, division by group and near
    copies, augmentation and choice of the epoch on a validation part. ``clone``, ``get_params``, ``set_params``, pipelines,
    ``cross_val_score`` and ``GridSearchCV`` work. The generic checks of scikit-learn, which pass rows of features, do not: X is
    three-dimensional or a list of paths, which the tags of the estimator say.

    Args:
        recipe: A recipe in YAML; the default recipe where None. Its test share is not used: validation takes a fifth.
        settings: Recipe keys and values that differ, such as ``{"trainer.epochs": 5}``.
        unit: Of arrays: ``HU``, ``MR`` or ``grey``; only uint8 needs none.
        out: Run folder that is kept, and must be new; where None all but the fitted model is thrown away.
        seed: Of everything random.

    Attributes:
        classes_: (K,) the classes, sorted, as in y.
        bundle_: The trained bundle. With ``out`` it lies in ``out/bundle``; without, its files are gone after ``fit``.
        classifier_: It, ready to predict.
    """

    def __init__(
        self,
        recipe: str | Path | None = None,
        settings: dict[str, Any] | None = None,
        unit: Unit | None = None,
        out: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.unit = unit
        self.out = out
        self.seed = seed

    def fit(self, X: Images, y: ArrayLike, groups: Sequence[Any] | None = None) -> Self:
        """Trains on images.

        Args:
            X: (n, H, W) numbers, n paths, or n arrays (H, W).
            y: (n,) classes: texts or whole numbers.
            groups: (n,) patients, kept on one side of the division into training and validation; near copies are found anyway.

        Raises:
            UsageError: If X, y and groups do not fit each other, an array has no unit, or there is one class alone.
            InputError: If an image cannot be read.
        """
        images, targets = _checked(X), np.asarray(y)
        if targets.ndim != 1 or len(targets) != len(images) or (groups is not None and len(groups) != len(images)):
            told = "no" if groups is None else len(groups)
            raise UsageError(
                f"{len(images)} images, y of shape {targets.shape} and {told} groups were given",
                "There is one class and one group for each image",
                "Give y and groups in the order of X",
            )
        self.classes_ = np.unique(targets)
        names = [str(value) for value in self.classes_]
        Labels(tuple(names))
        changes = {"data.class_order": names, "data.fractions": [0.8, 0.2, 0.0], "seed": self.seed, **(self.settings or {})}
        recipe = load_recipe(self.recipe, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
        with tempfile.TemporaryDirectory(prefix="reslink-") as scratch:
            table = self._write(Path(scratch), images, [str(value) for value in targets], groups)
            manifest = Manifest.open(table, class_order=names)
            folder = Path(scratch) / "run" if self.out is None else Path(self.out)
            self.bundle_ = Bundle.load(train(manifest, recipe, folder, cache=Path(scratch) / "cache").bundle)
            self.classifier_ = Classifier(self.bundle_)
        return self

    def predict_proba(self, X: Images) -> NDArray[np.float64]:
        """Returns calibrated probabilities (n, K) in the order of ``classes_``.

        Raises:
            InputError: If an image cannot be read or holds several slices.
            NotFittedError: Before ``fit``.
        """
        answers = list(self._answers(X))
        names = self.classifier_.labels.names
        return np.array([[(answer.probabilities or {})[name] for name in names] for answer in answers]).reshape(-1, len(names))

    def predict(self, X: Images) -> NDArray[Any]:
        """Returns the classes (n,) at the operating point of the bundle.

        Raises:
            InputError: If an image cannot be read or holds several slices.
            NotFittedError: Before ``fit``.
        """
        index = [self.classifier_.labels.index(str(answer.label)) for answer in self._answers(X)]
        return np.asarray(self.classes_[np.array(index, dtype=np.int64)])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.non_deterministic = False
        return tags

    def _answers(self, images: Images) -> Iterator[Prediction]:
        if not hasattr(self, "classifier_"):
            raise NotFittedError("This ResLinkClassifier has not been trained. It predicts once it is. Call fit(X, y) first.")
        for answer in self.classifier_.predict(list(_checked(images)), unit=self.unit):
            if answer.error is not None or answer.slice is not None:
                fault = (answer.error or f"{answer.path} holds several slices").rstrip(".")
                raise InputError(
                    f"An image cannot be used: {fault}",
                    "There is one answer for each image",
                    "Leave it out, or give one slice of a volume",
                )
            yield answer

    def _write(self, folder: Path, images: Images, names: list[str], groups: Sequence[Any] | None) -> Path:
        """Writes a table of the images, and arrays as files; returns the table."""
        table = folder / "manifest.csv"
        with table.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["path", "label", "patient_id"] if groups is not None else ["path", "label"])
            for i, (image, name) in enumerate(zip(images, names, strict=True)):
                place = folder / f"{i:07d}"
                path = _linked(place, image) if isinstance(image, str | Path) else _written(place, image, self.unit)
                rows.writerow([path.name, name, groups[i]] if groups is not None else [path.name, name])
        return table


def _checked(images: Images) -> Images:
    """Refuses what is not a sequence of images, and a path that is not one file: its answers would not be in step with X."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":
        images = list(images.ravel().tolist())
    if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim != 3):
        given = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else "a single path"
        raise UsageError(f"X is {given}", "X is (n, H, W), or a list of paths or of arrays (H, W)", "Put one image in a list")
    for path in (Path(image) for image in images if isinstance(image, str | Path)):
        if not path.is_file():
            fault = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(
                f"{path} {fault}", "Each of X is one image", "Give the path of a file for each; no folder, no glob"
            )
    return images


def _linked(place: Path, image: str | Path) -> Path:
    """Links a file into the folder of the table, which names files below itself only."""
    path = place.with_suffix(Path(image).suffix)
    path.symlink_to(Path(image).resolve())
    return path


def _written(place: Path, array: NDArray[Any], unit: Unit | None) -> Path:
    """Writes an array as a file that the reader gives back with the same unit."""
    image = image_of(np.asarray(array), unit)
    path = place.with_suffix(".npy")
    np.save(path, np.asarray(array) if image.white else image.pixels)
    found = read_image(path)
    if found.unit != image.unit:
        raise UsageError(
            f"An array is said to be {image.unit}, but a file of its numbers would be read as {found.unit}",
            "HU are whole numbers that reach down to -200 or below; MR never does; grey is uint8 or uint16",
            "Correct unit, or write files (DICOM, NIfTI or PNG) and give their paths",
        )
    return path
