"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from reslink.datasets.case import SPLIT_NAMES
from reslink.errors import UsageError
from reslink.imaging.spellings import parse_sequence, parse_unit
from reslink.labels import CaseKind


class FolderOption:
    """Marks an option that names an output folder; :func:`reslink.cli.command.as_command` checks its value."""


FOLDER = FolderOption()


def parse_split(text: str) -> str:
    """Returns a split in the spelling of reslink; ``val`` and ``dev`` are ``validation``, as in the tables of data sets.

    Raises:
        typer.BadParameter: If there is no such split.
    """
    split = {"all": "all", **SPLIT_NAMES}.get(text.casefold())
    if split is None:
        raise typer.BadParameter(f"{text!r} is not one of 'all', 'train', 'validation', 'test'.")
    return split


def parse_unit_option(text: str) -> str | None:
    """Returns the unit that ``--unit`` names, before any model is loaded.

    Raises:
        typer.BadParameter: If there is no such unit.
    """
    try:
        return parse_unit(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder with one folder per class, a folder with a manifest.csv, or a CSV or Parquet table.",
        show_default=False,
    ),
]
DataSets = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...",
        help="A folder with one folder per class, a folder with a manifest.csv, or a CSV or Parquet table; several are joined, "
        "and the name of each becomes the source of its cases.",
        show_default=False,
    ),
]
LabelMap = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="LABEL=CLASS",
        help="Class of a label, or SET:LABEL=CLASS for one of several data sets; LABEL= leaves its cases out; repeatable.",
        show_default=False,
    ),
]
Corrections = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        metavar="FILE",
        help="CSV of corrected labels, such as label_corrections.csv of reslink audit --labels-from; default: none.",
        show_default=False,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="ROLE=COLUMN",
        help="Columns of the table for path, label, patient, source, mask, split, unit or sequence; repeatable. "
        "Default: by their names.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder that the paths in the table start from; default: the folder of the table.",
        show_default=False,
    ),
]
Unit = Annotated[
    Literal["HU", "MR", "gray"] | None,
    typer.Option(
        "--unit",
        parser=parse_unit_option,
        metavar="UNIT",
        help="Unit of values in files that state none, such as NIfTI and NPY: hu, mr or gray; default: by the histogram.",
        show_default=False,
    ),
]
MRSequence = Annotated[
    str | None,
    typer.Option(
        "--sequence",
        parser=parse_sequence,
        metavar="NAME",
        help="MR sequence of the images: T1, T1C+ (after contrast), T2, FLAIR, …; default: what each file states.",
        show_default=False,
    ),
]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="COLUMNS",
        help="Columns of the table with several labels at once (1, 0 or empty), such as epidural,subdural; default: none.",
        show_default=False,
    ),
]
Case = Annotated[
    CaseKind | None,
    typer.Option(
        "--case",
        metavar="CASE",
        help="What has one label: slice, or series (a row of the table is a volume or a DICOM folder); default: slice.",
        show_default=False,
    ),
]
BundleFolder = Annotated[
    str,  # not a Path, which would make ./ct and ct the same
    typer.Argument(
        metavar="BUNDLE", help="A bundle folder such as RUN/bundle, or a model name from 'reslink models'.", show_default=False
    ),
]
OwnNetwork = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="CODE",
        help="Your own network that the bundle was trained with: package.module:callable or file.py:callable.",
        show_default=False,
    ),
]
TrainedNetwork = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="NETWORK",
        help="Network variant such as densenet121, or your own code: package.module:callable or file.py:callable; "
        "default: that of the recipe.",
        show_default=False,
    ),
]
Init = Annotated[
    str | None,  # not a Path, which would make ./ct and ct the same
    typer.Option(
        "--init", metavar="PARENT", help="Fine-tune the weights of a model name, bundle or run; default: from scratch."
    ),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Number of epochs; default: that of the recipe.", show_default=False)
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Seed of split, weights and augmentation; default: that of the recipe.", show_default=False
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Number of parallel runs with one thread each.", show_default="one per core"),
]
Images = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Image files, folders, DICOM series or globs.", show_default=False),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.", show_default=False), FOLDER]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Folder for the decoded images, which several commands can share; default: one in the output folder.",
        show_default=False,
    ),
    FOLDER,
]
OptionalOutFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Output folder; default: nothing is written.", show_default=False),
    FOLDER,
]
Split = Annotated[
    Literal["all", "train", "validation", "test"],
    typer.Option(
        "--split",
        parser=parse_split,
        metavar="SPLIT",
        help="Use only the cases of this split: all, train, validation (or val) or test.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout and nothing else.")]
BootstrapSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Number of images per batch.")]
Device = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps.")]
Backend = Annotated[
    str,  # not a Literal: the error of choose_backend suggests the nearest name
    typer.Option(
        "--backend",
        help="Backend: auto, torch, onnxruntime or openvino. auto is ONNX Runtime on the CPU if the bundle has a model.onnx.",
    ),
]
OperatingPointText = Annotated[
    str,
    typer.Option(
        "--operating-point",
        metavar="POINT",
        help="Operating point: default (0.5), youden, accuracy, sensitivity=0.95, specificity=0.95, or cost=FN:FP.",
    ),
]
Coverage = Annotated[
    float, typer.Option("--coverage", help="Coverage of the prediction sets: share of cases whose set holds the true class.")
]
PerClass = Annotated[bool, typer.Option("--per-class", help="Hold the coverage within each class.")]
PerSource = Annotated[
    bool,
    typer.Option(
        "--per-source", help="Hold the coverage within each source (column source), and weigh sources alike in calibration."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in this folder, or start a new one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing results in the output folder.")]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Continue despite train/test leakage; the results are marked.")
]
AllowConflicts = Annotated[
    bool, typer.Option("--allow-conflicts", help="Continue although identical or near-duplicate images have different labels.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a recipe key; repeatable.", show_default=False),
]
Recipe = Annotated[
    str | None,  # not a Path, which would make ./phantom and phantom the same
    typer.Option(
        "--recipe", "-c", "--config", metavar="FILE", help="Recipe in YAML; default: the default recipe.", show_default=False
    ),
]


def set_training_environment() -> None:
    """Gives each of several trainings one thread, and cuBLAS reproducible results; called before torch is imported."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def threads_from_environment() -> int | None:
    """Returns the number in ``OMP_NUM_THREADS``, which torch also uses; None if the variable holds no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
