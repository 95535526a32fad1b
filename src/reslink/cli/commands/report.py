"""``reslink report``: writes a report for reviewers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

EXAMPLES = (
    "reslink report runs/first",
    "reslink report runs/first --checklist claim --with experiments/ct --with audited",
)


def report(
    console: Console,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of train or evaluate.", show_default=False)],
    checklist: Annotated[
        Literal["claim", "stard-ai", "tripod-ai"] | None,
        typer.Option("--checklist", help="Reporting checklist to fill in; default: none.", show_default=False),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="DIR",
            help="Output folder of audit, experiment, or evaluate on external data; repeatable.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a report for reviewers: flow diagram, splits, metrics, calibration, external validation, failures, checklist."""
    from reslink.reports.checklist.evidence import read_evidence

    evidence = read_evidence(run, others or ())
    from reslink.reports.checklist.checklist import fill  # slow imports, after the paths were read
    from reslink.reports.checklist.page import write_review
    from reslink.reports.run.flow_diagram import case_flow

    filled = fill(checklist, evidence) if checklist else None
    page = write_review(run, evidence, filled)
    if json:
        boxes = [vars(box) for box in case_flow(evidence.run)]
        value = {"report": str(page), "flow": boxes, "checklist": None if filled is None else filled.as_dict()}
        console.json(value | {"research_use_only": True}, indent=2)
        return
    if filled is not None:
        for item in filled.items:
            if item.author:
                console.row(str(item.number), item.topic, f"to be written by the author: {item.author}")
        console.note(", ".join(f"{n} {status}" for status, n in filled.counts.items()))
    console.note(f"report: {page}")
    console.research_use_only()
