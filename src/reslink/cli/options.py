"""Options that several verbs share: one spelling and one help text each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A folder of class folders, a folder with a manifest.csv, or a CSV.", show_default=False
    ),
]
BundleFolder = Annotated[
    str,  # not a Path, which would make ./ct and ct the same
    typer.Argument(
        metavar="BUNDLE", help="A bundle folder, such as RUN/bundle, or a name of 'reslink models'.", show_default=False
    ),
]
Images = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Image files, folders, DICOM series or globs.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout and nothing else.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.", show_default=False)]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at once.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or mps.")]
Backend = Annotated[
    str,  # not a Literal: the error of inference.backends.choose names the nearest
    typer.Option(
        "--backend",
        help="auto, torch, onnxruntime or openvino; auto: ONNX Runtime on the CPU where the bundle has a model.onnx.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that stands there, or begin it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in the folder.")]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Report figures although patients or near copies were learned from.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a recipe key; may be given again.", show_default=False),
]
Recipe = Annotated[
    Path | None,
    typer.Option("--recipe", "-c", "--config", metavar="FILE", help="A recipe in YAML.", show_default=False),
]


def wanted_threads() -> int | None:
    """Returns the number in ``OMP_NUM_THREADS``, which torch follows too; None where it holds none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
