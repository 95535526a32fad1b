"""``reslink evaluate``: metrics of a bundle on a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from reslink.cli.cluster_options import On, check_address
from reslink.cli.console import Console
from reslink.cli.options import (
    AllowLeakage,
    BatchSize,
    BootstrapSeed,
    BundleFolder,
    Cache,
    Columns,
    Data,
    Device,
    Json,
    MRSequence,
    OutFolder,
    Overwrite,
    OwnNetwork,
    Root,
    Split,
    Unit,
)
from reslink.errors import counted
from reslink.evaluation.few_cases import few_cases

EXAMPLES = (
    "reslink evaluate runs/first/bundle other-hospital/ --out evaluated",
    "reslink evaluate runs/first/bundle cohort.csv --split test --out evaluated --json",
    "reslink evaluate runs/first/bundle cohort.csv --by scanner --by sex --out evaluated",
    "reslink evaluate ct /shared/archive.csv --out evaluated --on ray",
)


def evaluate(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    out: OutFolder,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    sequence: MRSequence = None,
    split: Split = "all",
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="COLUMN", help="Also compute metrics for each value of this column; repeatable.", show_default=False
        ),
    ] = None,
    batch_size: BatchSize = 32,
    network: OwnNetwork = None,
    device: Device = "auto",
    seed: BootstrapSeed = 0,
    allow_leakage: AllowLeakage = False,
    cache: Cache = None,
    on: On = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also write predictions.parquet: the rows of predictions.csv, with types.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Evaluate a bundle on a data set: metrics with 95 % intervals. Writes evaluation.json and report.html."""
    from reslink.api.evaluate import evaluate as evaluate_data
    from reslink.cli.metrics_table import (
        labels_of,
        print_answers,
        print_labels,
        print_metrics,
        print_subgroups,
        warn_of_leakage,
        warn_of_refused,
    )

    result = evaluate_data(
        bundle,
        data,
        out,
        columns=columns,
        root=root,
        unit=unit,
        sequence=sequence,
        split=None if split == "all" else split,
        by=by or (),
        batch_size=batch_size,
        network=network,
        device=device,
        seed=seed,
        allow_leakage=allow_leakage,
        cache=cache,
        on=check_address(on),
        parquet=parquet,
        overwrite=overwrite,
        progress=console.progress(),
    )
    for name, reason in result["failed"].items():
        console.warn(f"{name} is skipped: {reason}")
    warn_of_refused(console, result)
    warn_of_leakage(console, result["leakage"])
    if few := few_cases(result):
        console.warn(f"{few}.")
    for case in [*result["excluded"], *result["leaked"]]:
        console.detail(f"{case['path']}: {case['reason']}")
    if json:
        console.json(result)
    else:
        from reslink.evaluation.selective import can_abstain  # slow, and not needed for an error

        images = f"{counted(result['n'], 'image')}{', abstentions included' if can_abstain(result) else ''}"
        print_metrics(console, result["metrics"], tuple(result["metrics"]), images)
        print_answers(console, result)
        print_labels(console, labels_of(result))
        print_subgroups(console, result["subgroups"])
        console.note(f"report: {out / 'report.html'}")
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)
