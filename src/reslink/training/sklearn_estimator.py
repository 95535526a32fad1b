"""A scikit-learn estimator that trains and predicts with reslink."""

from __future__ import annotations

import csv
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
from reslink.imaging.formats.numpy_array import image_from_array
from reslink.imaging.image import Unit
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction
from reslink.labels import Labels
from reslink.training.recipe.recipe import load_recipe
from reslink.training.trainer import train

Images: TypeAlias = NDArray[Any] | Sequence[str | Path | NDArray[Any]]
"""(n, H, W) numbers, or n paths, or n arrays (H, W)."""


class ResLinkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """ResLink as a scikit-learn classifier of images.

    ``fit`` writes arrays as files and trains as ``reslink train`` does: the same preprocessing, group-wise split, augmentation
    and choice of the epoch on a validation split. ``clone``, ``get_params``, ``set_params``, pipelines, ``cross_val_score`` and
    ``GridSearchCV`` work. The generic checks of scikit-learn, which pass rows of features, do not: X is three-dimensional or a
    list of paths, as the tags of the estimator state.

    Args:
        recipe: YAML file or name of a published recipe; the default recipe if None. There is no test split; a fifth of the
            images is used for validation.
        settings: Changes of recipe keys, such as ``{"trainer.epochs": 5}``.
        unit: Unit of arrays: ``HU``, ``MR`` or ``gray``; only uint8 needs none.
        out: New run folder that is kept; if None, only the fitted model is kept.
        seed: Random seed.

    Attributes:
        classes_: (K,) the classes, sorted, as in y.
        bundle_: The trained bundle. With ``out`` it is in ``out/bundle``; without, its files are removed after ``fit``.
        classifier_: The classifier of the bundle.
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
            y: (n,) classes: strings or integers.
            groups: (n,) patients; each stays in one split. Near duplicates are found in any case.

        Raises:
            UsageError: If X, y and groups do not match, an array has no unit, or there is only one class.
            InputError: If an image cannot be read.
        """
        images, targets = _checked(X), np.asarray(y)
        if targets.ndim != 1 or len(targets) != len(images) or (groups is not None and len(groups) != len(images)):
            n_groups = "no" if groups is None else len(groups)
            raise UsageError(
                f"{len(images)} images, y of shape {targets.shape} and {n_groups} groups were given",
                "There is one class and one group for each image",
                "Give y and groups in the order of X",
            )
        self.classes_ = np.unique(targets)
        names = [str(value) for value in self.classes_]
        Labels(tuple(names))
        changes = {"data.class_order": names, "data.fractions": [0.8, 0.2, 0.0], "seed": self.seed, **(self.settings or {})}
        recipe = load_recipe(self.recipe, changes.items())  # refuses data.labels beside the order of the classes
        recipe.require_one_class_per_slice("ResLinkClassifier")
        with tempfile.TemporaryDirectory(prefix="reslink-") as scratch:
            table = self._write(Path(scratch), images, [str(value) for value in targets], groups)
            manifest = Manifest.open(table, class_order=names, unit=self.unit)
            folder = Path(scratch) / "run" if self.out is None else Path(self.out)
            self.bundle_ = Bundle.load(train(manifest, recipe, folder, cache=Path(scratch) / "cache").bundle, recipe.builder())
            self.classifier_ = Classifier(self.bundle_)
        return self

    def predict_proba(self, X: Images) -> NDArray[np.float64]:
        """Returns calibrated probabilities (n, K) in the order of ``classes_``.

        Raises:
            InputError: If an image cannot be read or holds several slices.
            NotFittedError: Before ``fit``.
        """
        predictions = list(self._predictions(X))
        names = self.classifier_.labels.names
        rows = [[(prediction.probabilities or {})[name] for name in names] for prediction in predictions]
        return np.array(rows).reshape(-1, len(names))

    def predict(self, X: Images) -> NDArray[Any]:
        """Returns the classes (n,) at the operating point of the bundle.

        Raises:
            InputError: If an image cannot be read or holds several slices.
            NotFittedError: Before ``fit``.
        """
        index = [self.classifier_.labels.index(str(prediction.label)) for prediction in self._predictions(X)]
        return np.asarray(self.classes_[np.array(index, dtype=np.int64)])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        tags.non_deterministic = False
        return tags

    def _predictions(self, images: Images) -> Iterator[Prediction]:
        if not hasattr(self, "classifier_"):
            raise NotFittedError(
                "This ResLinkClassifier is not fitted. Prediction needs a fitted estimator. Call fit(X, y) first."
            )
        for prediction in self.classifier_.predict(list(_checked(images)), unit=self.unit):
            if prediction.label is None or prediction.slice is not None:
                refusal = "; ".join(prediction.reasons or ()) or f"{prediction.path} holds several slices"
                fault = (prediction.error or refusal).rstrip(".")
                raise InputError(
                    f"An image cannot be used: {fault}",
                    "There is one prediction per image",
                    "Remove it, or give one slice of a volume",
                )
            yield prediction

    def _write(self, folder: Path, images: Images, names: list[str], groups: Sequence[Any] | None) -> Path:
        """Writes a table of the images, and arrays as files; returns the table."""
        table = folder / "manifest.csv"
        with table.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["path", "label", "unit", *(["patient_id"] if groups is not None else [])])
            for i, (image, name) in enumerate(zip(images, names, strict=True)):
                stem, unit = folder / f"{i:07d}", ""
                if isinstance(image, str | Path):
                    path = _link_file(stem, image)
                else:
                    path, unit = _write_array(stem, image, self.unit)
                rows.writerow([path.name, name, unit, *([groups[i]] if groups is not None else [])])
        return table


def _checked(images: Images) -> Images:
    """Checks that X is a sequence of images, and that each path is one file, so there is one prediction per element."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":
        images = list(images.ravel().tolist())
    if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim != 3):
        given = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else "a single path"
        raise UsageError(f"X is {given}", "X is (n, H, W), or a list of paths or of arrays (H, W)", "Put one image in a list")
    for path in (Path(image) for image in images if isinstance(image, str | Path)):
        if not path.is_file():
            fault = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(
                f"{path} {fault}",
                "Each of X is one image",
                "Give the path of one file per image; folders and globs are not allowed",
            )
    return images


def _link_file(stem: Path, image: str | Path) -> Path:
    """Links a file into the folder of the table, so that a file that X names twice is two cases."""
    path = stem.with_suffix(Path(image).suffix)
    path.symlink_to(Path(image).resolve())
    return path


def _write_array(stem: Path, array: NDArray[Any], unit: Unit | None) -> tuple[Path, Unit]:
    """Writes an array as a file; returns it with the unit to read it with."""
    image = image_from_array(np.asarray(array), unit)
    path = stem.with_suffix(".npy")
    np.save(path, np.asarray(array, np.float32) if image.unit == "HU" else np.asarray(array))  # 8 bits would be no HU
    return path, image.unit
