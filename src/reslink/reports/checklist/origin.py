"""Whether an evaluation is of the run's own data or of external data, by the file hashes and the training fingerprints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from reslink.datasets.case import SPLITS
from reslink.reports.run.run_folder import Row, RunFolder

Kind = Literal["external", "internal (held-out)", "internal (training data)", "partly internal", "unknown"]
EXTERNAL, HELD_OUT, TRAINING_DATA, PARTLY_INTERNAL, UNKNOWN = get_args(Kind)


@dataclass(frozen=True)
class Origin:
    """Where the images of an evaluation come from, seen from a run.

    Attributes:
        kind: ``external``, ``internal (held-out)``, ``internal (training data)``, ``partly internal`` or ``unknown``.
        reason: The evidence, as a clause.
    """

    kind: Kind
    reason: str


def origin_of(run: RunFolder, evaluation: Mapping[str, Any], predictions: Sequence[Row]) -> Origin:
    """Decides whether an evaluation is external validation of a run.

    An image belongs to the run if its file is in the run's ``splits.csv`` or ``predictions.csv`` (by SHA-256), or if it
    overlaps with the training data (by the fingerprints in the bundle; ``excluded`` and ``leaked`` of ``evaluation.json``).

    Args:
        run: The run or evaluation folder that the report is about.
        evaluation: ``evaluation.json`` of the other evaluation.
        predictions: Rows of its ``predictions.csv``.

    Returns:
        ``external`` if none of the evaluated images belongs to the run. If at least half of all images do, ``internal (training
        data)`` if one of them is in the training or validation split or overlaps with the training data, otherwise
        ``internal (held-out)``. With fewer, ``partly internal``; ``unknown`` without file hashes.
    """
    split_of = _splits_of_files(run)
    overlapping = {str(entry["path"]) for key in ("excluded", "leaked") for entry in evaluation.get(key) or ()}
    evaluated = [row for row in predictions if row.get("sha256")]
    if not split_of or not evaluated:
        return Origin(UNKNOWN, "the files hold no hashes of the images; evaluate again with this version")
    shared = [row for row in evaluated if row["sha256"] in split_of or row.get("path") in overlapping]
    splits = Counter(split_of.get(row["sha256"], "") for row in shared)
    is_training = bool(splits["train"] or splits["validation"] or any(row.get("path") in overlapping for row in shared))
    n_excluded = len(evaluation.get("excluded") or ())
    total = len(evaluated) + n_excluded
    left_out = f", {n_excluded} more overlap with its training data and were left out" if n_excluded else ""
    counts = (
        f" ({', '.join(f'{splits[name]} {name}' for name in SPLITS if splits[name])})" if is_training and any(splits) else ""
    )
    reason = f"{len(shared)} of {len(evaluated)} images are in the data of the run{counts}{left_out}"
    if 2 * (len(shared) + n_excluded) >= total:
        return Origin(TRAINING_DATA if is_training else HELD_OUT, reason)
    if shared:
        return Origin(PARTLY_INTERNAL, reason)
    not_compared = _not_compared(evaluation)
    return Origin(EXTERNAL, f"none of the {len(evaluated)} files is in the data of the run{left_out}{not_compared}")


def _not_compared(evaluation: Mapping[str, Any]) -> str:
    """Returns which copies of the run's images were not searched for: folders of evaluations hold no pictures to compare."""
    is_checked = (evaluation.get("leakage") or {}).get("status", "unknown") != "unknown"
    images = "test images" if is_checked else "images"
    return f"; copies of its {images} in another file format are not recognized"


def _splits_of_files(run: RunFolder) -> dict[str, str]:
    """Returns the split of each file of a run by its SHA-256, '' if unknown; of several splits, the first of ``SPLITS``."""
    rows = [(row["sha256"], row.get("split") or "") for row in run.splits or () if row.get("sha256")]
    rows.sort(key=lambda row: SPLITS.index(row[1]) if row[1] in SPLITS else len(SPLITS), reverse=True)
    predicted = {row["sha256"]: "" for row in run.prediction_rows if row.get("sha256")}  # its splits are those of other data
    return predicted | dict(rows)
