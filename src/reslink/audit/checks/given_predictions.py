"""Out-of-fold predictions from a file, such as that of ``reslink cv``, for the label error check."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from reslink.errors import UsageError, listed
from reslink.metrics.classification import never_predicted

Floats: TypeAlias = NDArray[np.float64]

HASH: Final = "sha256"
PREFIX: Final = "p_"
GOOD_AUROC: Final = 0.9
_NEXT: Final = "Give the out_of_fold.csv that reslink cv wrote for the same images"


@dataclass(frozen=True)
class GivenPredictions:
    """Probabilities of images by networks that were not trained on them.

    Attributes:
        by_hash: Probability of each class by the SHA-256 of the image file.
        classes: The class names.
    """

    by_hash: Mapping[str, Mapping[str, float]]
    classes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> GivenPredictions:
        """Reads a CSV with the columns ``sha256`` and ``p_CLASS``.

        Raises:
            UsageError: If it cannot be read, a column is missing, or a value is not a probability.
        """
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                rows, columns = list(reader), list(reader.fieldnames or ())
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unusable(path, f"cannot be read: {error}") from error
        classes = tuple(name.removeprefix(PREFIX) for name in columns if name.startswith(PREFIX))
        if HASH not in columns or len(classes) < 2:
            raise _unusable(path, f"has the columns {listed(columns) or 'of no table'}")
        by_hash: dict[str, dict[str, float]] = {}
        for number, row in enumerate(rows, start=2):
            values = {name: _probability(row.get(f"{PREFIX}{name}")) for name in classes}
            known = {name: value for name, value in values.items() if value is not None}
            if len(known) < len(classes) or abs(sum(known.values()) - 1) > 1e-3:
                raise _unusable(path, f"has no probabilities with the sum 1 in line {number}")
            by_hash[str(row[HASH])] = known
        return cls(by_hash, classes)

    def rows(self, hashes: Sequence[str], class_names: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
        """Returns the indices of the images with a prediction, and their probabilities (n, K).

        Args:
            hashes: SHA-256 of each image file.
            class_names: The K classes of the data set.

        Raises:
            UsageError: If a class has no column, or no image has a prediction.
        """
        missing = [name for name in class_names if name not in self.classes]
        if missing:
            raise UsageError(
                f"The predictions have no column {PREFIX}{missing[0]}",
                f"They have a column for each class of the data: {listed(PREFIX + name for name in class_names)}",
                _NEXT,
            )
        known = np.array([i for i, digest in enumerate(hashes) if digest in self.by_hash], np.int64)
        if not len(known):
            raise UsageError(
                f"None of the {len(hashes)} images has a prediction",
                f"Images are recognized by the column {HASH}, the SHA-256 of the file",
                _NEXT,
            )
        return known, np.array([[self.by_hash[hashes[i]][name] for name in class_names] for i in known], np.float64)


def caution(y_prob: Floats, targets: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Returns why suspected label errors are uncertain: the predictions are poor; '' if they are good.

    They are poor if their AUROC (with more than two classes the mean over the classes, each against the others) is below 0.9,
    or if a class is never the most probable one.

    Args:
        y_prob: (n, K).
        targets: (n,) given class indices.
        class_names: The K classes.
    """
    present = np.unique(targets)
    never = never_predicted(targets, y_prob.argmax(axis=1), class_names)
    reasons = [f"never predict {listed(never)}"] if never else []
    if len(present) > 1:
        auroc = float(np.mean([roc_auc_score(targets == k, y_prob[:, k]) for k in present]))
        reasons += [f"have an AUROC of {auroc:.3f}"] if auroc < GOOD_AUROC else []
    return f"these predictions {' and '.join(reasons)}, so many of these labels can be correct" if reasons else ""


def _probability(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _unusable(path: Path, what: str) -> UsageError:
    return UsageError(
        f"The predictions {path} {what}",
        f"They are a CSV with the columns {HASH} and {PREFIX}CLASS, the out-of-fold probability of each class",
        _NEXT,
    )
