"""How the rooms below compose into one run: train, judge on the test part, look at some cases, write the page."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from reslink.cli.console import Console

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.training.recipe.recipe import Recipe

HEADLINE = ("accuracy", "sensitivity", "specificity", "ppv", "auroc")


def learn(console: Console, manifest: Manifest, recipe: Recipe, out: Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """Trains, judges on the test part, draws a gallery and writes the page, all into one run folder.

    Args:
        console: Where progress is said.
        manifest: The cases.
        recipe: The settings.
        out: The run folder.
        resume: Whether to go on from what stands in ``out``.
        overwrite: Whether a run in ``out`` may be replaced.

    Returns:
        What ``train --json`` prints: where things are, the figures of the test part, and the diagnostics.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only so; read when CUDA starts
    from reslink.cli.onnx_graph import add_twin
    from reslink.files import lock_folder
    from reslink.reports.run.page import run_report
    from reslink.training.trainer import train

    progress = console.progress()
    try:
        result = train(manifest, recipe, out, resume=resume, overwrite=overwrite, progress=progress)
    finally:
        progress.end()
    if os.environ.get("RANK", "0") != "0":  # one of several processes of torchrun; the first one does the rest
        raise typer.Exit
    try:
        with lock_folder(out):
            add_twin(console, out / "bundle")
            evaluation = judge(console, manifest, recipe, out)
            report = run_report(out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped while judging; the model is saved.\n  Run the same command with --resume to judge it (run folder {out})."
        ) from None
    return {
        "run": str(out),
        "bundle": str(result.bundle),
        "report": str(report),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "n_test": evaluation.get("n", 0),
        "left_out": left_out(manifest, out / "splits.csv"),
        "metrics": evaluation.get("metrics", {}),
        "leakage": evaluation.get("leakage"),
        "localization": evaluation.get("localization", {}),
        "findings": [asdict(finding) for finding in result.findings],
    }


def judge(console: Console, manifest: Manifest, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Judges the bundle of a run on its test part, stores the figures in the bundle too, and draws the gallery.

    Returns:
        What ``evaluation.json`` holds; empty where the run has no test part.
    """
    from reslink.bundles.bundle import Bundle
    from reslink.cli.attention_gallery import write_gallery
    from reslink.datasets.patient_ids import with_header_patients
    from reslink.evaluation.evaluate import evaluate_bundle

    cases = tested(with_header_patients(manifest)[0], out / "splits.csv")  # known of the whole, as they were for the split
    if not len(cases):
        console.warn("The run has no test part: nothing is judged.")
        return {}
    console.note(f"Judging {len(cases)} test images")
    evaluation = evaluate_bundle(
        out / "bundle",
        cases,
        out,
        device=recipe.trainer.device,
        split="test",
        cache_folder=out / "cache",
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        allow_leakage=recipe.data.allow_leakage,
        linked=linked(out),
    )
    Bundle.load(out / "bundle").with_metrics(evaluation)
    write_gallery(out, cases, recipe.trainer.device, console.progress())
    return evaluation


def parts(splits: Path) -> dict[str, str]:
    """Returns the part of each case that a run read, as its ``splits.csv`` says."""
    with splits.open(newline="", encoding="utf-8") as stream:
        return {row["sample_id"]: row["split"] for row in csv.DictReader(stream)}


def linked(run: Path) -> dict[str, str] | None:
    """Returns why a case is linked to the training part of a run, by case name; None for a run that did not look."""
    from reslink.training.run_folder import RunFolder

    return (RunFolder(run).finished() or {}).get("linked")


def tested(manifest: Manifest, splits: Path) -> Manifest:
    """Returns the test cases of a run."""
    part = parts(splits)
    cases = tuple(replace(case, split="test") for case in manifest.cases if part.get(case.name) == "test")
    return replace(manifest, cases=cases)


def left_out(manifest: Manifest, splits: Path) -> list[str]:
    """Returns the cases that could not be read: the split of the run has no row for them."""
    read = parts(splits)
    return [case.name for case in manifest.cases if case.name not in read]


def summarise(console: Console, summary: dict[str, Any], json: bool) -> None:
    """Says what came of a run: one JSON object, or for people the figures, the findings and where things are.

    Raises:
        typer.Exit: With code 1 where files could not be read and were left out.
    """
    _say(console, summary, json)
    if summary.get("left_out"):
        raise typer.Exit(1)


def _say(console: Console, summary: dict[str, Any], json: bool) -> None:
    from reslink.training.monitoring.diagnostics import FILES_LEFT_OUT

    for name in summary.get("left_out", ()):
        console.warn(f"Warning: {name} could not be read and was left out.")
    leaks(console, summary.get("leakage"))
    if json:
        console.json(summary, indent=2)
        return
    figures(console, summary["metrics"], HEADLINE, f"{summary['n_test']} test images")
    for finding in summary["findings"]:
        if finding["code"] == FILES_LEFT_OUT:  # named one by one above
            continue
        console.warn(f"Warning: {finding['message']}. {finding['advice']}. ({finding['code']}, epoch {finding['epoch']})")
    for name in ("bundle", "report", "new_heads"):
        if summary.get(name):
            console.note(f"{name.replace('_', ' ')}: {summary[name]}")
    console.research_use_only()


def leaks(console: Console, leakage: dict[str, Any] | None) -> None:
    """Says whether judged images are linked to the training data: a warning unless none is."""
    if leakage and leakage["status"] != "none found":
        console.warn(f"Warning: {leakage['message']}.")


def figures(console: Console, metrics: dict[str, Any], names: tuple[str, ...], title: str) -> None:
    """Writes a table of figures with their 95 % intervals; a figure that is not defined says why."""
    from reslink.metrics.classification import NAMES

    rows = []
    for name in names:
        found = metrics.get(name)
        if found is not None:
            rows.append(figure_row(NAMES[name], found))
    if rows:
        console.table(("figure", ">estimate", "95 % interval", ">n", "method"), rows, title=title)


def figure_row(title: str, found: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Returns a row of a table of figures: title, estimate, 95 % interval, n and method."""
    interval = "–" if found["ci_low"] is None else f"{found['ci_low']:.3f} to {found['ci_high']:.3f}"
    value = "–" if found["estimate"] is None else f"{found['estimate']:.3f}"
    return (title, value, interval, str(found["n"]), _method(found))


def _method(found: dict[str, Any]) -> str:
    return f"{found['method']}; linked to the training data" if found.get("leakage") else str(found["method"])


def predict_to_csv(console: Console, bundle: Path, paths: list[str | Path], table: Path) -> Path:
    """Classifies images into a CSV file, as ``predict --csv`` does."""
    from reslink.cli.commands.predict import table_of
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle)
    with table_of(table, classifier.labels.names) as sink:
        for prediction in classifier.predict(paths):
            sink.write(prediction)
    console.detail(f"Predicted: {table}")
    return table
