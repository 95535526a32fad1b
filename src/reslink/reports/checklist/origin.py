"""Whether an evaluation is of the run's own data or of external data, by the file hashes and the training fingerprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from reslink.reports.run.run_folder import Row, RunFolder

Kind = Literal["external", "internal (held-out)", "partly internal", "unknown"]
EXTERNAL, INTERNAL, PARTLY_INTERNAL, UNKNOWN = get_args(Kind)


@dataclass(frozen=True)
class Origin:
    """Where the images of an evaluation come from, seen from a run.

    Attributes:
        kind: ``external``, ``internal (held-out)``, ``partly internal`` or ``unknown``.
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
        ``external`` if none of the evaluated images belongs to the run, ``internal (held-out)`` if at least half of all images
        do, otherwise ``partly internal``; ``unknown`` without file hashes.
    """
    own = {row.get("sha256") for row in [*(run.splits or ()), *run.prediction_rows]} - {None, ""}
    overlapping = {str(entry["path"]) for key in ("excluded", "leaked") for entry in evaluation.get(key) or ()}
    evaluated = [row for row in predictions if row.get("sha256")]
    if not own or not evaluated:
        return Origin(UNKNOWN, "the files hold no hashes of the images; evaluate again with this version")
    shared = [row for row in evaluated if row["sha256"] in own or row.get("path") in overlapping]
    n_excluded = len(evaluation.get("excluded") or ())
    total = len(evaluated) + n_excluded
    left_out = f", {n_excluded} more overlap with its training data and were left out" if n_excluded else ""
    if 2 * (len(shared) + n_excluded) >= total:
        return Origin(INTERNAL, f"{len(shared)} of {len(evaluated)} images are in the data of the run{left_out}")
    if shared:
        return Origin(PARTLY_INTERNAL, f"{len(shared)} of {len(evaluated)} images are in the data of the run{left_out}")
    return Origin(EXTERNAL, f"none of the {len(evaluated)} images is in the data of the run{left_out}")
