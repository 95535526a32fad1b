"""``reslink calibrate``: fits the decision of a bundle on data that the network did not learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reslink.cli.console import Console
from reslink.cli.options import AllowLeakage, BatchSize, BundleFolder, Data, Device, Json, Overwrite
from reslink.errors import UsageError

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
    _refuse_earlier(out, overwrite)
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import Manifest
    from reslink.evaluation.calibrate import calibrate_bundle
    from reslink.evaluation.fitting import Wishes
    from reslink.metrics.operating_point import OperatingPoint

    wishes = Wishes(method, OperatingPoint.parse(operating_point), coverage if sets else None, per_class, ood)
    manifest = Manifest.open(data, labels=Bundle.load(bundle).labels)
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
    for note in (*result["notes"], *_leakage(result)):
        console.warn(f"Warning: {note}.")
    if json:
        console.json(result)
    else:
        _say(console, result)
    if result["failed"]:
        raise typer.Exit(1)


def _refuse_earlier(out: Path | None, overwrite: bool) -> None:
    if out is not None and (out / "bundle.json").exists() and not overwrite:
        raise UsageError(
            f"{out} holds a bundle already", "Nothing is replaced unasked", "Choose another --out, or add --overwrite"
        )


def _leakage(result: dict[str, Any]) -> list[str]:
    return [] if result["leakage"]["status"] == "none found" else [result["leakage"]["message"]]


def _say(console: Console, result: dict[str, Any]) -> None:
    decision, checked = result["decision"], result["held_out"]
    rows = [("images", f"{result['n']} in {result['n_groups']} groups")]
    how = "isotonic" if decision["isotonic"] else f"temperature {decision['temperature']:.3f}"
    rows.append(("calibration", how + _change(checked)))
    if decision["threshold"] is not None:
        rows.append(("threshold", f"{decision['threshold']:.4f} ({decision['threshold_source']}){_reached(checked)}"))
    rows.append(("prediction sets", _sets(decision["conformal"], checked)))
    kept = "" if checked.get("retained") is None else f", keeps {checked['retained']:.3f} of held-out groups' images"
    rows.append(("out-of-distribution gate", "none" if decision["ood"] is None else f"fitted{kept}"))
    console.table(("part", "value"), rows, title="Decision")
    if checked["reason"]:
        console.warn(f"Warning: Nothing was checked on held-out groups. {checked['reason']}.")
    console.note(f"bundle: {result['bundle']}; figures that it held are gone, run reslink evaluate on other data")
    console.research_use_only()


def _change(checked: dict[str, Any]) -> str:
    if "ece" not in checked:
        return ""
    return ", held-out groups: " + ", ".join(
        f"{name} {checked[key]['before']:.4f} to {checked[key]['after']:.4f}"
        for key, name in (("ece", "ECE"), ("brier", "Brier"))
    )


def _reached(checked: dict[str, Any]) -> str:
    if checked.get("sensitivity") is None:
        return ""
    return f", held-out groups: sensitivity {checked['sensitivity']:.3f}, specificity {checked['specificity']:.3f}"


def _sets(fitted: dict[str, Any] | None, checked: dict[str, Any]) -> str:
    if fitted is None:
        return "none"
    what = f"{fitted['coverage']:g} {'in each class' if fitted['per_class'] else 'over all cases'}"
    found = checked.get("sets")
    if found is None:
        return what
    return f"{what}, held-out groups: coverage {found['coverage']:.3f}, {found['n_empty']} of {checked['n']} empty"
