"""The page about a run: one self-contained HTML file, made from the files of the run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reslink import __version__
from reslink.files import write_atomic
from reslink.metrics.classification import NAMES
from reslink.reports import charts
from reslink.reports.jinja import template
from reslink.reports.run import evaluation_charts, evaluation_sections, sections
from reslink.reports.run.run_folder import RunFolder, read_run
from reslink.reports.svg import COLOURS, Chart

RESEARCH_USE_ONLY = "Research use only – not for diagnosis"
RUN, EVALUATION = "Run report", "Evaluation report"


def run_report(run: str | Path) -> Path:
    """Writes ``report.html`` into a run folder, and its charts as SVG into ``figures/``.

    The page holds all that it shows: no script, no request to anywhere. Parts that the run does not have are left out.

    Args:
        run: A run folder: ``config.yaml``, ``environment.json``, ``splits.csv``, ``metrics.jsonl``,
            ``evaluation.json``, ``predictions.csv``, ``figures/gallery*.png`` and ``bundle/`` are read where they
            stand.

    Returns:
        The page.

    Raises:
        InputError: If there is no such folder, or a file in it is broken.
        StorageError: If the page cannot be written.
    """
    return _write(Path(run), RUN)


def evaluation_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into a folder that ``reslink evaluate`` wrote; as ``run_report`` otherwise."""
    return _write(Path(folder), EVALUATION)


def _write(folder: Path, kind: str) -> Path:
    files = read_run(folder)
    drawn = _charts(files)
    for chart in drawn:
        write_atomic(folder / "figures" / f"{chart.name}.svg", chart.standalone())
    return write_atomic(folder / "report.html", render(files, drawn, kind))


def render(files: RunFolder, drawn: list[Chart], kind: str) -> str:
    """Returns the page.

    Args:
        files: What the run holds.
        drawn: Its charts.
        kind: What kind of report it is, for the title.
    """
    return template("page.html.j2").render(
        kind=kind,
        trained_here=kind == RUN,
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        name=files.name,
        metric_names=NAMES,
        colours={name: light for name, (_, light) in COLOURS.items()},
        charts={chart.name: chart for chart in drawn},
        evaluation=files.evaluation,
        cards=sections.headline(files.evaluation),
        leaks=sections.leaks(files.evaluation),
        facts=sections.facts(files),
        confusion=sections.confusion(files.evaluation),
        by_class=evaluation_sections.by_class(files.evaluation),
        subgroups=evaluation_sections.subgroup_tables(files.evaluation),
        gallery=sections.gallery(files),
        localization=sections.localization(files.evaluation),
        sanity=sections.checks(files.sanity),
        findings=files.findings,
        split=sections.split_table(files.splits),
        settings=sections.flattened(files.config),
        environment=sections.flattened(files.environment),
        bundle=sections.bundle_rows(files.bundle),
    )


def _charts(files: RunFolder) -> list[Chart]:
    drawn: list[Chart | None] = [
        charts.curves(files.epochs, sections.columns(files.epochs, "loss"), "loss", "Loss", "loss"),
        charts.curves(files.epochs, sections.columns(files.epochs, "score"), "score", "Validation", "figure"),
    ]
    if (cases := files.predictions) is not None:
        decision: dict[str, Any] = (files.evaluation or {}).get("decision") or (files.bundle or {}).get("decision", {})
        drawn += [
            charts.roc(cases.y_true, cases.y_prob, cases.names, decision.get("threshold")),
            charts.precision_recall(cases.y_true, cases.y_prob, cases.names),
            charts.calibration(cases.y_true, cases.y_prob, cases.names, evaluation_sections.diagram(files.evaluation)),
            evaluation_charts.selective_risk(cases.y_true, cases.y_prob, cases.y_pred),
        ]
    drawn.append(evaluation_charts.decision_curve((files.evaluation or {}).get("decision_curve") or {}))
    return [chart for chart in drawn if chart is not None]
