"""Writes the HTML report of a run or an evaluation from the files of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reslink.evaluation.few_cases import few_cases
from reslink.files import write_atomic
from reslink.reports import charts
from reslink.reports.jinja import load_template
from reslink.reports.run import evaluation_charts, evaluation_sections, label_sections, sections
from reslink.reports.run.not_evaluated import not_evaluated
from reslink.reports.run.run_folder import RunFolder, case_noun, read_run
from reslink.reports.svg import Chart

RUN, EVALUATION = "Run report", "Evaluation report"


def run_report(run: str | Path) -> Path:
    """Writes ``report.html`` into a run folder, and its charts as SVG into ``figures/``.

    The page is self-contained: no script and no network request. Sections without data are omitted.

    Args:
        run: A run folder. It may hold ``config.yaml``, ``environment.json``, ``splits.csv``, ``metrics.jsonl``,
            ``evaluation.json``, ``predictions.csv``, ``figures/gallery*.png`` and ``bundle/``.

    Returns:
        The path of the page.

    Raises:
        InputError: If there is no such folder, or a file in it is invalid.
        StorageError: If the page cannot be written.
    """
    return _write(Path(run), RUN)


def evaluation_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into an output folder of ``reslink evaluate``; otherwise as ``run_report``."""
    return _write(Path(folder), EVALUATION)


def _write(folder: Path, kind: str) -> Path:
    files = read_run(folder)
    drawn = _charts(files)
    for chart in drawn:
        write_atomic(folder / "figures" / f"{chart.name}.svg", chart.standalone())
    return write_atomic(folder / "report.html", render(files, drawn, kind))


def render(files: RunFolder, drawn: list[Chart], kind: str) -> str:
    """Returns the HTML of the page.

    Args:
        files: The contents of the run folder.
        drawn: The charts.
        kind: ``RUN`` or ``EVALUATION``.
    """
    evaluation = files.evaluation
    return load_template("run.html.j2").render(
        kind=kind,
        is_run=kind == RUN,
        title=sections.title(files),
        charts={chart.name: chart for chart in drawn},
        evaluation=evaluation,
        cards=sections.headline_metrics(evaluation),
        answer_cards=sections.answer_cards(evaluation),
        not_evaluated=not_evaluated(evaluation),
        group_name=sections.group_name(evaluation),
        few_cases=few_cases(evaluation or {}, sections.group_name(evaluation)),
        leakage_notice=sections.leakage_notice(evaluation),
        facts=sections.facts(files),
        label_table=label_sections.label_table(evaluation),
        confusion=sections.confusion_matrix(evaluation),
        class_tables=evaluation_sections.class_tables(evaluation),
        subgroups=evaluation_sections.subgroup_tables(evaluation),
        gallery=sections.gallery(files),
        localization=sections.localization(evaluation),
        randomization_checks=sections.randomization_checks(files.randomization_checks),
        findings=files.findings,
        split=sections.split_table(files.splits),
        split_groups=sections.split_groups(files.config),
        noun=case_noun(files.config),
        settings=sections.run_settings(files),
        environment=sections.flatten_settings(files.environment),
        bundle=sections.bundle_settings(files.bundle),
    )


def _charts(files: RunFolder) -> list[Chart]:
    loss_columns, score_columns = (sections.learning_curve_columns(files.epochs, kind) for kind in ("loss", "score"))
    drawn: list[Chart | None] = [
        charts.learning_curves(files.epochs, loss_columns, "loss", "Loss", "loss"),
        charts.learning_curves(files.epochs, score_columns, "score", "Validation metrics", "metric"),
    ]
    if (cases := files.predictions) is not None:
        decision: dict[str, Any] = (files.evaluation or {}).get("decision") or (files.bundle or {}).get("decision", {})
        bins = evaluation_sections.reliability_bins(files.evaluation)
        drawn += [
            charts.roc(cases.y_true, cases.y_prob, cases.names, decision.get("threshold")),
            charts.precision_recall(cases.y_true, cases.y_prob, cases.names),
        ]
        if cases.y_true.ndim == 1:
            drawn += [
                charts.calibration(cases.y_true, cases.y_prob, cases.names, bins),
                evaluation_charts.risk_coverage(cases.y_true, cases.y_prob, cases.y_pred),
            ]
    drawn.append(label_sections.auroc_by_label(files.evaluation))
    drawn.append(evaluation_charts.decision_curve((files.evaluation or {}).get("decision_curve") or {}))
    return [chart for chart in drawn if chart is not None]
