"""The flow of images and patients through a run, as required by STARD 2015 (item 19)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reslink.evaluation.selective import can_abstain
from reslink.reports.run.run_folder import RunFolder
from reslink.reports.run.sections import split_table


@dataclass(frozen=True)
class FlowStep:
    """A box of the flow diagram.

    Attributes:
        title: What the images of this box are.
        n_images: Number of images; None if unknown.
        n_groups: Number of patients or duplicate groups; None if unknown.
        excluded: Whether these images leave the flow here.
        detail: Text below the numbers.
    """

    title: str
    n_images: int | None
    n_groups: int | None = None
    excluded: bool = False
    detail: str = ""


def case_flow(run: RunFolder) -> list[FlowStep]:
    """Returns the boxes of the flow diagram from first to last.

    Args:
        run: The contents of a run or evaluation folder.
    """
    evaluation = run.evaluation or {}
    steps = _split_steps(run)
    n_failed, n_excluded = evaluation.get("n_failed", 0), len(evaluation.get("excluded") or ())
    if n_excluded:
        reasons = "; ".join(sorted({str(case["reason"]) for case in evaluation["excluded"]}))
        steps.append(FlowStep("Excluded: overlap with the training or calibration data", n_excluded, None, True, reasons))
    if n_failed:
        steps.append(FlowStep("Excluded: could not be read or predicted", n_failed, excluded=True))
    if evaluation.get("n_refused"):
        reasons = "; ".join(sorted(set(evaluation["refused"].values())))
        steps.append(FlowStep("Refused and not counted", evaluation["n_refused"], None, True, reasons))
    steps.append(FlowStep("Evaluated", evaluation.get("n"), evaluation.get("n_groups"), detail=_class_counts(evaluation)))
    if can_abstain(evaluation):
        selective = evaluation["selective"]
        reasons = ", ".join(f"{name}: {n}" for name, n in (selective.get("reasons") or {}).items())
        steps.append(FlowStep("Abstained", selective["n_abstained"], excluded=True, detail=reasons))
        steps.append(FlowStep("Answered", selective.get("n_covered")))
    return steps


def _split_steps(run: RunFolder) -> list[FlowStep]:
    table = split_table(run.splits)
    if table is None:
        return []
    counts = dict(zip(table["splits"], table["lines"][-1][1], strict=True))
    titles = {"train": "Training split", "validation": "Validation split (choice of the epoch)"}
    return [
        FlowStep("Readable images", table["images"], table["groups"]),
        *(
            FlowStep(titles.get(name, f"Not evaluated: {name}"), images, groups, excluded=True)
            for name, (images, groups) in counts.items()
            if name != "test"
        ),
        *([FlowStep("Test split", *counts["test"])] if "test" in counts else []),
    ]


def _class_counts(evaluation: Mapping[str, Any]) -> str:
    matrix = evaluation.get("confusion_matrix") or {}
    rows = zip(matrix.get("labels") or (), matrix.get("counts") or (), strict=False)
    return ", ".join(f"{name}: {sum(row)}" for name, row in rows)
