"""The flow of images and patients through a run, as STARD 2015 (item 19) wants it drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reslink.reports.run.run_folder import RunFolder
from reslink.reports.run.sections import split_table


@dataclass(frozen=True)
class Box:
    """A box of the diagram.

    Attributes:
        title: What the images of the box are.
        count: How many images; None where that is not known.
        groups: How many patients or twin groups; None where that is not known.
        out: Whether these images leave the way here.
        detail: Words below the numbers.
    """

    title: str
    count: int | None
    groups: int | None = None
    out: bool = False
    detail: str = ""


def flow_of(run: RunFolder) -> list[Box]:
    """Returns the boxes from the first to the last.

    Args:
        run: The files of a run or of an evaluation.
    """
    evaluation = run.evaluation or {}
    boxes = _partition(run)
    failed, excluded = evaluation.get("n_failed", 0), len(evaluation.get("excluded") or ())
    if excluded:
        reasons = sorted({str(one["reason"]) for one in evaluation["excluded"]})
        boxes.append(Box("Left out: linked to the training or calibration data", excluded, out=True, detail="; ".join(reasons)))
    if failed:
        boxes.append(Box("Left out: could not be read or judged", failed, out=True))
    boxes.append(Box("Judged", evaluation.get("n"), evaluation.get("n_groups"), detail=_classes(evaluation)))
    selective = evaluation.get("selective") or {}
    if abstains(evaluation):
        why = ", ".join(f"{name}: {n}" for name, n in (selective.get("reasons") or {}).items())
        boxes.append(Box("Abstained", selective["n_abstained"], out=True, detail=why))
        boxes.append(Box("Answered", selective.get("n_covered")))
    return boxes


def abstains(evaluation: Mapping[str, Any]) -> bool:
    """Whether the network that was judged had sets or a gate to abstain by."""
    selective = evaluation.get("selective") or {}
    return selective.get("sets") is not None or selective.get("n_refused") is not None


def _partition(run: RunFolder) -> list[Box]:
    table = split_table(run.splits)
    if table is None:
        return []
    sides = dict(zip(table["splits"], table["lines"][-1][1], strict=True))
    boxes = [Box("Images that could be read", table["images"], table["groups"])]
    learned = [(name, *cells) for name, cells in sides.items() if name != "test"]
    titles = {"train": "Learned from: train", "validation": "Epoch chosen by: validation"}
    boxes += [Box(titles.get(name, f"Not judged: {name}"), n, groups, out=True) for name, n, groups in learned]
    return [*boxes, Box("Test part", *sides["test"])] if "test" in sides else boxes


def _classes(evaluation: dict[str, Any]) -> str:
    found = evaluation.get("confusion_matrix") or {}
    rows = zip(found.get("labels") or (), found.get("counts") or (), strict=False)
    return ", ".join(f"{name}: {sum(row)}" for name, row in rows)
