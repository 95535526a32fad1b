"""``reslink compare``: compares bundles on the same cases."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from reslink.api.data_argument import read_patients
from reslink.cli.console import Console
from reslink.cli.options import (
    AllowLeakage,
    BatchSize,
    BootstrapSeed,
    Columns,
    Device,
    Json,
    OptionalOutFolder,
    Overwrite,
    Root,
    Split,
    Unit,
)
from reslink.files import check_overwrite

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
            help="Two or more bundle or run folders, or model names from 'reslink models'.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "-d",
            metavar="DATA",
            help="A folder with one folder per class, a folder with a manifest.csv, or a CSV or Parquet table.",
            show_default=False,
        ),
    ],
    out: OptionalOutFolder = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    split: Split = "all",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    seed: BootstrapSeed = 0,
    allow_leakage: AllowLeakage = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare bundles on the same cases: differences with 95 % intervals, DeLong and exact McNemar tests with Holm correction.

    --out writes comparison.json, report.html and the evaluation of each bundle.
    """
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import Manifest
    from reslink.evaluation.cases import select_cases
    from reslink.evaluation.compared_models import common_labels, short_names
    from reslink.inference.devices import check_device_name

    check_overwrite(out, "comparison.json", "a comparison", overwrite)
    check_device_name(device)
    chosen_split = None if split == "all" else split
    opened = [Bundle.load(bundle) for bundle in bundles]
    for bundle in opened:
        bundle.require_slices("reslink compare")
    loaded = dict(zip(short_names(bundles), opened, strict=True))
    for bundle in opened:
        bundle.labels.require_exclusive("reslink compare", "Evaluate each model with reslink evaluate")
    labels = common_labels([(name, bundle.labels.names) for name, bundle in loaded.items()])
    manifest = read_patients(Manifest.open(data, labels=labels, columns=columns, root=root, unit=unit))
    select_cases(manifest, labels, chosen_split)
    from reslink.evaluation.compare import compare_bundles  # slow imports, after typing errors were found
    from reslink.evaluation.evaluate import EvaluationOptions
    from reslink.files import write_json
    from reslink.reports.compare import comparison_report

    with _folder(out) as folder:
        result = compare_bundles(
            loaded,
            manifest,
            folder,
            EvaluationOptions(
                split=chosen_split,
                device=device,
                batch_size=batch_size,
                seed=seed,
                allow_leakage=allow_leakage,
            ),
            progress=console.progress(),
        )
    if out is not None:
        write_json(out / "comparison.json", result)
        console.note(f"report: {comparison_report(out)}")
    for case, missing in result["excluded"].items():
        console.warn(f"{case} is skipped: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    for name, model in result["models"].items():
        if (leaks := model["leakage"]) and leaks["status"] != "none found":
            console.warn(f"Warning: {name}: {leaks['message']}.")
    if json:
        console.json(result)
    else:
        _print_comparison(console, result)
    if any(model["failed"] for model in result["models"].values()):
        raise typer.Exit(1)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Gives the folder of the evaluations. Decoded images are removed at the end; without ``out``, so is the folder."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="reslink-compare-") as name:
            yield Path(name)
        return
    try:
        yield out
    finally:
        shutil.rmtree(out / ".cache", ignore_errors=True)


def _print_comparison(console: Console, result: dict[str, Any]) -> None:
    from reslink.metrics.classification import METRIC_NAMES

    for pair in result["comparisons"]:
        tests = {test["metric"]: test for test in pair["tests"]}
        rows = []
        for key, gap in pair["differences"].items():
            values = [_number(result["models"][pair[side]]["metrics"][key]["estimate"]) for side in ("a", "b")]
            interval = "–" if gap["ci_low"] is None else f"{gap['ci_low']:+.3f} to {gap['ci_high']:+.3f}"
            p = tests.get(key, {})
            estimates = (METRIC_NAMES[key], *values, _number(gap["estimate"], "+"), interval, _p(p), _p(p, "p_holm"))
            rows.append((*estimates, p.get("name", ""), _missing_reason(gap, p)))
        head = (
            "metric",
            f">{pair['a']}",
            f">{pair['b']}",
            ">difference",
            "95 % interval",
            ">p",
            ">p (Holm)",
            "test",
            "reason",
        )
        console.table(head, rows, title=f"{pair['a']} and {pair['b']} on {result['n']} images")
    console.research_use_only()


def _missing_reason(gap: dict[str, Any], test: dict[str, Any]) -> str:
    """Returns why there is no interval, or why there is no test; empty if both exist."""
    if gap["ci_low"] is None:
        return str(gap["method"])
    return str(test["method"]) if test and test["p_value"] is None else ""


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _p(test: dict[str, Any], key: str = "p_value") -> str:
    value = test.get(key)
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
