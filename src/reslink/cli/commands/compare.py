"""``reslink compare``: two bundles or more on the same cases."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reslink.cli.command import refuse_earlier
from reslink.cli.console import Console
from reslink.cli.options import AllowLeakage, BatchSize, Device, Json, Overwrite

EXAMPLES = (
    "reslink compare runs/a/bundle runs/b/bundle --data other-hospital/ --out compared",
    "reslink compare runs/a runs/b runs/c --data cohort.csv --split test --out compared --json",
)


def compare(
    console: Console,
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE BUNDLE...",
            help="Two bundle or run folders, or names of 'reslink models', or more.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", "-d", metavar="DATA", help="Class folders, a folder with a manifest.csv, or a CSV.", show_default=False
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)] = None,
    split: Annotated[
        Literal["all", "train", "validation", "test"],
        typer.Option("--split", help="Only cases whose column 'split' says so."),
    ] = "all",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    allow_leakage: AllowLeakage = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare bundles on the same cases: differences with 95 % intervals, DeLong and exact McNemar with Holm's correction.

    With --out it writes comparison.json, report.html and the evaluation of each bundle.
    """
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.patient_ids import with_header_patients
    from reslink.evaluation.compare import check_labels, compare_bundles, names_of
    from reslink.files import write_json
    from reslink.reports.compare import comparison_report

    refuse_earlier(out, "comparison.json", "a comparison", overwrite)
    loaded = [Bundle.load(bundle) for bundle in bundles]  # a wrong one is said before anything is decoded
    check_labels([(name, bundle.labels.names) for name, bundle in zip(names_of(bundles), loaded, strict=True)])
    manifest, note = with_header_patients(Manifest.open(data, labels=loaded[0].labels))
    if note:
        console.warn(f"Patients: {note}.")
    with _folder(out) as folder:
        result = compare_bundles(
            bundles,
            manifest,
            folder,
            split=None if split == "all" else split,
            device=device,
            batch_size=batch_size,
            seed=seed,
            allow_leakage=allow_leakage,
            progress=console.progress(),
        )
    if out is not None:
        write_json(out / "comparison.json", result)
        console.note(f"report: {comparison_report(out)}")
    for case, missing in result["left_out"].items():
        console.warn(f"{case} is left out: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    for name, model in result["models"].items():
        if (leaks := model["leakage"]) and leaks["status"] != "none found":
            console.warn(f"Warning: {name}: {leaks['message']}.")
    if json:
        console.json(result)
    else:
        _say(console, result)
    if any(model["failed"] for model in result["models"].values()):
        raise typer.Exit(1)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Gives the folder of the evaluations; decoded images in it, or all of it where none is asked for, are gone at the end."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="reslink-compare-") as name:
            yield Path(name)
        return
    try:
        yield out
    finally:
        shutil.rmtree(out / ".cache", ignore_errors=True)


def _say(console: Console, result: dict[str, Any]) -> None:
    from reslink.metrics.classification import NAMES

    for pair in result["comparisons"]:
        tests = {test["figure"]: test for test in pair["tests"]}
        rows = []
        for key, gap in pair["differences"].items():
            values = [_figure(result["models"][pair[side]]["metrics"][key]["estimate"]) for side in ("a", "b")]
            interval = "–" if gap["ci_low"] is None else f"{gap['ci_low']:+.3f} to {gap['ci_high']:+.3f}"
            p = tests.get(key, {})
            figures = (NAMES[key], *values, _figure(gap["estimate"], "+"), interval, _p(p), _p(p, "p_holm"))
            rows.append((*figures, p.get("name", ""), _why_not(gap, p)))
        head = (
            "figure",
            f">{pair['a']}",
            f">{pair['b']}",
            ">difference",
            "95 % interval",
            ">p",
            ">p, Holm",
            "test",
            "why none",
        )
        console.table(head, rows, title=f"{pair['a']} and {pair['b']} on {result['n']} images")
    console.research_use_only()


def _why_not(gap: dict[str, Any], test: dict[str, Any]) -> str:
    """Returns why there is no interval, or else no test."""
    if gap["ci_low"] is None:
        return str(gap["method"])
    return str(test["method"]) if test and test["p_value"] is None else ""


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _p(test: dict[str, Any], key: str = "p_value") -> str:
    value = test.get(key)
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
