"""``reslink calibrate``: fits the decision of a bundle on data that the network did not learn from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reslink.cli.command import refuse_earlier
from reslink.cli.console import Console
from reslink.cli.options import AllowLeakage, BatchSize, BundleFolder, Data, Device, Json, Overwrite

if TYPE_CHECKING:
    from reslink.bundles.decision.decision import Decision

_CALIBRATION = (("ece", "ECE"), ("brier", "Brier score"))
_FIGURES = (
    ("accuracy", "accuracy"),
    ("sensitivity", "sensitivity (recall)"),
    ("specificity", "specificity"),
    ("retained", "kept by the gate"),
    ("answered", "answered"),
)

EXAMPLES = (
    "reslink calibrate runs/first/bundle cohort.csv --split validation --out runs/first/calibrated",
    "reslink calibrate runs/first/bundle other-hospital/ --operating-point sensitivity=0.95 --out here",
    "reslink calibrate runs/first/bundle other-hospital/ --method isotonic --per-class --out here",
)


def calibrate(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    method: Annotated[
        Literal["temperature", "isotonic"], typer.Option("--method", help="How probabilities are calibrated.")
    ] = "temperature",
    operating_point: Annotated[
        str,
        typer.Option(
            "--operating-point",
            metavar="POINT",
            help="default (0.5), youden, accuracy, sensitivity=0.95, specificity=0.95, or cost=FN:FP such as cost=5:1.",
        ),
    ] = "default",
    coverage: Annotated[
        float, typer.Option("--coverage", help="Share of cases whose prediction set holds the true class.")
    ] = 0.95,
    per_class: Annotated[bool, typer.Option("--per-class", help="Keep the coverage within each class.")] = False,
    sets: Annotated[bool, typer.Option("--sets/--no-sets", help="Fit prediction sets.")] = True,
    ood: Annotated[bool, typer.Option("--ood/--no-ood", help="Fit the gate that refuses images of another kind.")] = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="NEWBUNDLE", help="Folder of the new bundle; BUNDLE itself if not given."),
    ] = None,
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option("--split", help="Only cases whose column 'split' says so."),
    ] = "all",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    allow_leakage: AllowLeakage = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fit calibration, operating point, prediction sets and out-of-distribution gate; predict and evaluate then use them.

    Use data that the network did not learn from. Near copies of training images are left out.
    """
    refuse_earlier(out, "bundle.json", "a bundle", overwrite)
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.decision.calibration import FittedOn
    from reslink.datasets.manifest import Manifest
    from reslink.evaluation.calibrate import calibrate_bundle
    from reslink.evaluation.fitting import Wishes
    from reslink.metrics.operating_point import OperatingPoint

    wishes = Wishes(method, OperatingPoint.parse(operating_point), coverage if sets else None, per_class, ood)
    former = Bundle.load(bundle)
    manifest = Manifest.open(data, labels=former.labels)
    progress = console.progress()
    try:
        result = calibrate_bundle(
            bundle,
            manifest,
            out,
            wishes=wishes,
            split=None if split == "all" else split,
            device=device,
            batch_size=batch_size,
            allow_leakage=allow_leakage,
            progress=progress,
        )
    finally:
        progress.end()
    for name, reason in result["failed"].items():
        console.warn(f"{name} is left out: {reason}")
    for note in (*result["notes"], *_leakage(result), *_lost(former.decision, result["decision"])):
        console.warn(f"Warning: {note}.")
    if caveat := FittedOn.model_validate(result["decision"]["fitted_on"]).caveat:
        console.note(f"{caveat[0].upper()}{caveat[1:]}.")
    if json:
        console.json(result)
    else:
        _say(console, result)
    if result["failed"]:
        raise typer.Exit(1)


def _leakage(result: dict[str, Any]) -> list[str]:
    return [] if result["leakage"]["status"] == "none found" else [result["leakage"]["message"]]


def _lost(former: Decision, decision: dict[str, Any]) -> list[str]:
    """Returns what the bundle had before and no longer has, a sentence each without its full stop."""
    lost = []
    if former.threshold not in (None, decision["threshold"]) and decision["threshold_source"] == "default":
        before = f"{former.threshold:.4g} ({former.threshold_source})"
        lost.append(f"The new threshold is the default; the one before was {before}. --operating-point fits one")
    if former.conformal is not None and decision["conformal"] is None:
        lost.append("The new decision has no prediction sets; the one before had")
    if former.ood is not None and decision["ood"] is None:
        lost.append("The new decision has no out-of-distribution gate; the one before had")
    return lost


def _say(console: Console, result: dict[str, Any]) -> None:
    decision, checked = result["decision"], result["held_out"]
    rows = [("images", f"{result['n']} in {result['n_groups']} groups")]
    how = "isotonic" if decision["isotonic"] else f"temperature {decision['temperature']:.3f}"
    rows.append(("calibration", how))
    if decision["threshold"] is not None:
        rows.append(("threshold", f"{decision['threshold']:.4f} ({decision['threshold_source']})"))
    rows.append(("prediction sets", _sets(decision["conformal"])))
    rows.append(("out-of-distribution gate", "none" if decision["ood"] is None else "fitted"))
    console.table(("part", "value"), rows, title="Decision")
    if checked["reason"]:
        console.warn(f"Warning: Nothing was checked on held-out groups. {checked['reason']}.")
    else:
        _checked(console, checked)
    console.note(f"bundle: {result['bundle']}; figures that it held are gone, run reslink evaluate on other data")
    console.research_use_only()


def _sets(fitted: dict[str, Any] | None) -> str:
    if fitted is None:
        return "none"
    return f"{fitted['coverage']:g} {'in each class' if fitted['per_class'] else 'over all cases'}"


def _checked(console: Console, checked: dict[str, Any]) -> None:
    """Writes a table of the figures on held-out groups."""
    from reslink.cli.pipeline import figure_row

    found = {f"{title} {when}": checked[name][when] for name, title in _CALIBRATION for when in ("before", "after")}
    found |= {title: checked[name] for name, title in _FIGURES if checked[name] is not None}
    if (sets := checked["sets"]) is not None:
        found["coverage of the sets"] = sets["coverage"]
        found |= {f"coverage of the sets, {name}": value for name, value in sets["coverage_by_class"].items()}
        found["classes in a set, mean"] = sets["mean_size"]
    rows = [figure_row(title, value) for title, value in found.items()]
    console.table(("figure", ">estimate", "95 % interval", ">n", "method"), rows, title="On held-out groups")
    if sets is not None:
        console.note(f"Of {checked['n']} held-out sets {sets['n_empty']} are empty.")
    for note in checked["notes"]:
        console.warn(f"Warning: {note}.")
