"""``reslink calibrate``: fits the decision of a bundle on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import (
    FOLDER,
    AllowLeakage,
    BatchSize,
    BundleFolder,
    Columns,
    Coverage,
    Data,
    Device,
    Json,
    OperatingPointText,
    Overwrite,
    OwnNetwork,
    PerClass,
    PerSource,
    Root,
    Split,
    Unit,
)
from reslink.files import check_overwrite

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.decision.decision import Decision

_CALIBRATION = (("ece", "ECE"), ("brier", "Brier score"))
_METRICS = (
    ("accuracy", "accuracy"),
    ("sensitivity", "sensitivity (recall)"),
    ("specificity", "specificity"),
    ("retained", "accepted by the OOD detector"),
    ("answered", "answered"),
)

EXAMPLES = (
    "reslink calibrate runs/first/bundle cohort.csv --split validation --out runs/first/calibrated",
    "reslink calibrate runs/first/bundle other-hospital/ --operating-point sensitivity=0.95 --out here",
    "reslink calibrate runs/first/bundle other-hospital/ --method isotonic --per-class --out here",
    "reslink calibrate runs/first/bundle hospitals.csv --split validation --per-source --out here",
)


def calibrate(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    method: Annotated[Literal["temperature", "isotonic"], typer.Option("--method", help="Calibration method.")] = "temperature",
    operating_point: OperatingPointText = "default",
    coverage: Coverage = 0.95,
    per_class: PerClass = False,
    per_source: PerSource = False,
    sets: Annotated[bool, typer.Option("--sets/--no-sets", help="Fit prediction sets.")] = True,
    ood: Annotated[bool, typer.Option("--ood/--no-ood", help="Fit the out-of-distribution detector.")] = True,
    flip_average: Annotated[
        bool | None,
        typer.Option(
            "--flip-average/--no-flip-average",
            help="Average the probabilities of an image and its mirror image, at twice the cost; default: as in BUNDLE.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="NEWBUNDLE", help="Folder of the new bundle; default: update BUNDLE in place."),
        FOLDER,
    ] = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    split: Split = "all",
    batch_size: BatchSize = 32,
    network: OwnNetwork = None,
    device: Device = "auto",
    allow_leakage: AllowLeakage = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fit calibration, operating point, prediction sets and out-of-distribution detector; predict and evaluate then use them.

    Use data that was not used for training. Near duplicates of training images are skipped.
    """
    check_overwrite(out, "bundle.json", "a bundle", overwrite)
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import Manifest
    from reslink.evaluation.cases import RunOptions, select_cases
    from reslink.evaluation.fitting import DecisionOptions
    from reslink.inference.devices import check_device_name
    from reslink.metrics.operating_point import OperatingPoint

    check_device_name(device)
    point = OperatingPoint.parse(operating_point)
    chosen_split = None if split == "all" else split
    previous = Bundle.load(bundle, network)
    flip = previous.decision.flip_average if flip_average is None else flip_average
    options = DecisionOptions(method, point, coverage if sets else None, per_class, ood, flip, per_source)
    manifest = Manifest.open(data, labels=previous.labels, columns=columns, root=root, unit=unit, case=previous.case)
    select_cases(manifest, previous.labels, chosen_split)  # a typing error is found before the slow imports
    from reslink.evaluation.calibrate import calibrate_bundle

    progress = console.progress()
    try:
        result = calibrate_bundle(
            previous,
            manifest,
            out,
            decision_options=options,
            progress=progress,
            options=RunOptions(split=chosen_split, device=device, batch_size=batch_size, allow_leakage=allow_leakage),
        )
    finally:
        progress.end()
    print_calibration(console, previous, result, json=json)


def print_calibration(console: Console, previous: Bundle, result: dict[str, Any], *, json: bool) -> None:
    """Prints a fitted decision, its metrics on held-out groups, and what was left out; ``reslink adapt`` uses it too.

    Args:
        console: The output.
        previous: The bundle before.
        result: The result of ``calibrate_bundle``.
        json: Print the result as JSON instead of tables.

    Raises:
        typer.Exit: With code 1 if files could not be read.
    """
    from reslink.bundles.decision.calibration import FittedOn
    from reslink.cli.metrics_table import warn_of_refused

    for name, reason in result["failed"].items():
        console.warn(f"{name} is skipped: {reason}")
    warn_of_refused(console, result)
    lost = _lost_parts(previous.decision, result["decision"], previous.labels.names)
    for note in (*result["notes"], *_leakage(result), *lost):
        console.warn(f"Warning: {note}.")
    if caveat := FittedOn.model_validate(result["decision"]["fitted_on"]).caveat:
        console.note(f"{caveat[0].upper()}{caveat[1:]}.")
    if json:
        console.json(result)
    else:
        _print_result(console, result)
    if result["failed"]:
        raise typer.Exit(1)


def _leakage(result: dict[str, Any]) -> list[str]:
    return [] if result["leakage"]["status"] == "none found" else [result["leakage"]["message"]]


def _lost_parts(previous: Decision, decision: dict[str, Any], names: Sequence[str] = ()) -> list[str]:
    """Returns one sentence, without its final period, for each part of the previous decision that the new one lacks.

    Args:
        previous: The previous decision.
        decision: The new one in JSON form.
        names: The names of several labels at once.
    """
    lost = []
    for name, before, after in zip(names, previous.by_label, decision.get("by_label", ()), strict=bool(previous.by_label)):
        lost += [f"Label {name!r}: {text}" for text in _lost_parts(before, after)]
    if previous.threshold not in (None, decision["threshold"]) and decision["threshold_source"] == "default":
        threshold = f"{previous.threshold:.3f} ({previous.threshold_source})"
        lost.append(f"The new threshold is the default; the previous one was {threshold}. Fit one with --operating-point")
    if previous.conformal is not None and decision["conformal"] is None:
        lost.append("The new decision has no prediction sets; the previous one had")
    if previous.ood is not None and decision["ood"] is None:
        lost.append("The new decision has no out-of-distribution detector; the previous one had")
    return lost


def _print_result(console: Console, result: dict[str, Any]) -> None:
    decision, cross_fit = result["decision"], result["cross_fit"]
    if "by_label" in decision:
        _print_labels(console, result)
        return
    rows = [("images", f"{result['n']} in {result['n_groups']} groups")]
    method = "isotonic" if decision["isotonic"] else f"temperature {decision['temperature']:.3f}"
    rows.append(("calibration", method))
    rows.append(("flip averaging", "yes, twice the cost" if decision.get("flip_average") else "no"))
    if decision["threshold"] is not None:
        rows.append(("threshold", f"{decision['threshold']:.3f} ({decision['threshold_source']})"))
    rows.append(("prediction sets", _describe_sets(decision["conformal"])))
    rows.append(("out-of-distribution detector", "none" if decision["ood"] is None else "fitted"))
    console.table(("part", "value"), rows, title="Decision")
    if cross_fit["reason"]:
        console.warn(f"Warning: The decision was not evaluated on held-out groups. {cross_fit['reason']}.")
    else:
        _print_held_out(console, cross_fit)
    console.note(f"bundle: {result['bundle']}; its earlier metrics were removed, run reslink evaluate on other data")
    console.research_use_only()


def _print_labels(console: Console, result: dict[str, Any]) -> None:
    """Prints the decision of each of several labels at once."""
    from reslink.cli.metrics_table import metric_row

    decision, cross_fit = result["decision"], result["cross_fit"]
    rows = []
    for own, (name, measured) in zip(decision["by_label"], cross_fit["by_label"].items(), strict=True):
        method = "isotonic" if own["isotonic"] else f"temperature {own['temperature']:.3f}"
        held_out = [metric_row("", measured[key]) if measured.get(key) else ("",) * 5 for key in ("sensitivity", "specificity")]
        numbers = [f"{row[1]} ({row[2]})" if row[1] else "–" for row in held_out]
        rows.append((name, method, f"{own['threshold']:.3f}", _describe_sets(own["conformal"]), *numbers))
        if measured["reason"]:
            console.warn(f"Warning: Label {name!r} was not evaluated on held-out groups. {measured['reason']}.")
    head = ("label", "calibration", ">threshold", "prediction sets", "sensitivity, held out", "specificity, held out")
    console.table(head, rows, title=f"Decision, fitted on {result['n']} images in {result['n_groups']} groups")
    console.note(f"out-of-distribution detector: {'none' if decision['ood'] is None else 'fitted'}")
    console.note(f"bundle: {result['bundle']}; its earlier metrics were removed, run reslink evaluate on other data")
    console.research_use_only()


def _describe_sets(conformal: dict[str, Any] | None) -> str:
    if conformal is None:
        return "none"
    from reslink.bundles.decision.calibration import covered_within

    within = covered_within(per_class=conformal["per_class"], sources=conformal["sources"])
    scope = f"in {within}" if within else "over all cases"
    return f"coverage {conformal['coverage']:g} {scope}"


def _print_held_out(console: Console, cross_fit: dict[str, Any]) -> None:
    """Prints a table of the metrics on held-out groups; those of an adapted network also before, with the parent."""
    from reslink.cli.metrics_table import metric_row
    from reslink.metrics.classification import METRIC_NAMES

    metrics = {f"{title} {when}": cross_fit[name][when] for name, title in _CALIBRATION for when in ("before", "after")}
    changed = cross_fit.get("adaptation", {})
    metrics |= {f"{METRIC_NAMES[name]} {when}": changed[name][when] for name in changed for when in ("before", "after")}
    metrics |= {title: cross_fit[name] for name, title in _METRICS if name not in changed and cross_fit[name] is not None}
    if (sets := cross_fit["prediction_sets"]) is not None:
        metrics["coverage of the prediction sets"] = sets["coverage"]
        for part in ("coverage_by_class", "coverage_by_source"):
            metrics |= {f"coverage of the prediction sets, {name}": value for name, value in sets[part].items()}
        metrics["mean size of a prediction set"] = sets["mean_size"]
    rows = [metric_row(title, metric) for title, metric in metrics.items()]
    console.table(("metric", ">estimate", "95 % interval", ">n", "method"), rows, title="On held-out groups")
    if sets is not None:
        console.note(f"{sets['n_empty']} of {cross_fit['n']} held-out prediction sets are empty.")
    for note in cross_fit["notes"]:
        console.warn(f"Warning: {note}.")
