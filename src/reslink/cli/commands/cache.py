"""``reslink cache``: decodes the images of a data set once, for trainings and evaluations."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reslink.cli.cluster_options import On, check_address
from reslink.cli.console import Console
from reslink.cli.options import (
    FOLDER,
    Case,
    Columns,
    Corrections,
    DataSets,
    Init,
    Json,
    LabelColumns,
    LabelMap,
    Recipe,
    Root,
    Set,
    Unit,
)
from reslink.remote_paths import parse_remote

EXAMPLES = (
    "reslink cache images/ --out decoded",
    "reslink cache images/ --out decoded --set preprocess.size=192 --on ray",
    "reslink cache other-hospital/ --out decoded --bundle runs/first/bundle",
)


def cache(
    console: Console,
    data: DataSets,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder of the cache, for --cache of train and evaluate.", show_default=False
        ),
        FOLDER,
    ],
    bundle: Annotated[
        str | None,  # not a Path, which would make ./ct and ct the same
        typer.Option(
            "--bundle",
            metavar="BUNDLE",
            help="Decode for evaluate with this bundle or model name; default: for train.",
            show_default=False,
        ),
    ] = None,
    label_map: LabelMap = None,
    corrections: Corrections = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    recipe: Recipe = None,
    sets: Set = None,
    labels: LabelColumns = None,
    init: Init = None,
    case: Case = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash all files again, also those whose size and time did not change.")
    ] = False,
    on: On = None,
    json: Json = False,
) -> None:
    """Decode the images of a data set once, for train and evaluate with --cache.

    Give the options that train or evaluate get: images are found by their content, the preprocessing and the version of
    reslink's decoding code. Run the same command again to resume after an interruption. Exit code 1 if an image failed.
    """
    from reslink.api.cache import cache as fill_cache

    summary = fill_cache(
        data,
        out,
        bundle=bundle,
        map=label_map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        recipe=recipe,
        settings=sets or (),
        labels=labels,
        init=init,
        case=case,
        verify=verify,
        on=check_address(on),
        progress=console.progress(),
    )
    for name, reason in summary["failed"].items():
        console.warn(f"{name} failed: {reason}")
    if json:
        console.json(summary)
    else:
        _print_summary(console, summary)
        options = {
            "--map": label_map,
            "--corrections": corrections,
            "--columns": columns,
            "--root": root,
            "--unit": unit,
            "--recipe": recipe,
            "--set": sets,
            "--labels": labels,
            "--init": init,
            "--case": case,
        }
        console.note(f"use it with: {_next_command(data, out, bundle, options)}")
    if summary["failed"]:
        raise typer.Exit(1)


def _print_summary(console: Console, summary: dict[str, Any]) -> None:
    console.row("decoded", str(summary["decoded"]))
    console.row("taken from the cache", str(summary["from_cache"]))
    console.row("failed", str(len(summary["failed"])))
    console.row(f"size of {summary['cache']}", f"{summary['bytes'] / 1e6:.1f} MB")
    console.row("preprocessing", summary["settings_digest"][:16])


def _next_command(data: Sequence[Path], out: Path, bundle: str | None, options: dict[str, Any]) -> str:
    """Returns the command that uses the cache, with the options that decide what is decoded."""
    names = [str(path) for path in data]
    words = ["train", *names, "--out", "RUN"] if bundle is None else ["evaluate", bundle, *names, "--out", "DIR"]
    for option, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(parse_remote(one) or one)]  # a Path joins the slashes of a URL
    return shlex.join(["reslink", *words, "--cache", str(out)])
