"""``reslink report``: the page that a reviewer wants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

EXAMPLES = (
    "reslink report runs/first",
    "reslink report runs/first --checklist claim --with studies/ct --with audited",
)


def report(
    console: Console,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that train or evaluate wrote.", show_default=False)],
    checklist: Annotated[
        Literal["claim", "stard-ai", "tripod-ai"] | None,
        typer.Option("--checklist", help="Fill a reporting checklist as far as the run can.", show_default=False),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="DIR",
            help="A folder of audit, study or evaluate on outside data; may be given again.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write the page a reviewer wants: flow, partition, table, figures, calibration, outside data, failures, checklist."""
    from reslink.reports.checklist.checklist import fill
    from reslink.reports.checklist.evidence import read_evidence
    from reslink.reports.checklist.page import review_page
    from reslink.reports.run.flow_diagram import flow_of

    evidence = read_evidence(run, others or ())
    filled = fill(checklist, evidence) if checklist else None
    page = review_page(run, evidence, filled)
    if json:
        boxes = [vars(box) for box in flow_of(evidence.run)]
        value = {"report": str(page), "flow": boxes, "checklist": None if filled is None else filled.as_dict()}
        console.json(value | {"research_use_only": True}, indent=2)
        return
    if filled is not None:
        for item in filled.items:
            if item.author:
                console.data(f"{item.number}\t{item.topic}\tthe author must write this: {item.author}")
        console.note(", ".join(f"{n} {status}" for status, n in filled.counts.items()))
    console.note(f"report: {page}")
    console.research_use_only()
