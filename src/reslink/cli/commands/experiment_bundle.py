"""``reslink study robustness`` and ``reslink study transfer``: studies that judge a trained bundle and train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reslink.cli.command import refuse_file
from reslink.cli.console import Console
from reslink.cli.options import BundleFolder, Data, Device, Json, Overwrite
from reslink.errors import UsageError

EXAMPLES = {
    "robustness": (
        "reslink study robustness runs/first images/ --out studies/ct",
        "reslink study robustness runs/first images/ --out studies/ct --only noise jpeg --images 100",
    ),
    "transfer": (
        "reslink study transfer runs/ct mri/ --inside ct/ --map no_tumor=Healthy --map glioma=Tumor --out studies/ct",
        "reslink study transfer runs/ct hospital-b.csv hospital-c.csv --out studies/ct --json",
    ),
}

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of studies.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")]


def robustness(
    console: Console,
    bundle: BundleFolder,
    data: Data,
    out: Out,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME...", help="Only these corruptions, such as noise jpeg.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="Judge so many images, drawn at random; 0 takes all.")] = 300,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """How do the figures fall with noise, movement, JPEG, another window? Eleven corruptions, five severities each.

    Each corruption acts on the original image. Images that the bundle's run learned from are left out. Run the same
    command again to go on after an interruption.
    """
    refuse_file(out / "robustness", "--out")
    from reslink.bundles.bundle import Bundle
    from reslink.cli.commands.experiment import tell
    from reslink.datasets.manifest import Manifest
    from reslink.experiments.robustness.robustness import robustness as study
    from reslink.files import lock_folder

    manifest = Manifest.open(data, labels=Bundle.load(bundle).labels)
    progress = console.progress()
    try:
        with lock_folder(out / "robustness"):
            result = study(
                bundle,
                manifest,
                out,
                kinds=only or (),
                images=images or None,
                device=device,
                seed=seed,
                overwrite=overwrite,
                progress=progress,
            )
    finally:
        progress.end()
    tell(console, result, out / "robustness", json)


def transfer(
    console: Console,
    bundle: BundleFolder,
    others: Annotated[
        list[Path],
        typer.Argument(metavar="OTHER_DATA...", help="Data of another site, scanner or modality.", show_default=False),
    ],
    out: Out,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="LABEL=CLASS",
            help="The class that a label of the other data stands for; LABEL= leaves it out. May be given again.",
            show_default=False,
        ),
    ] = None,
    inside: Annotated[
        Path | None,
        typer.Option("--inside", metavar="DATA", help="Data like that learned from, to compare with.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="Judge so many images of each; 0 takes all.")] = 0,
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What is left of the figures on other data? The drop with its interval, and what is different about the data."""
    refuse_file(out / "transfer", "--out")
    from reslink.cli.commands.experiment import tell
    from reslink.experiments.transfer.transfer import transfer as study
    from reslink.files import lock_folder

    rename = mapping(maps or ())
    progress = console.progress()
    try:
        with lock_folder(out / "transfer"):
            result = study(
                bundle,
                others,
                out,
                rename=rename,
                inside=inside,
                images=images or None,
                device=device,
                seed=seed,
                progress=progress,
            )
    finally:
        progress.end()
    tell(console, result, out / "transfer", json)


def mapping(texts: list[str] | tuple[str, ...]) -> dict[str, str | None]:
    """Returns the class that each label stands for, None where it is left out.

    Raises:
        UsageError: If a text has no '=', or a label is mapped twice.
    """
    found: dict[str, str | None] = {}
    for text in texts:
        label, equals, name = (part.strip() for part in text.partition("="))
        if not equals or not label:
            raise UsageError(f"--map {text!r} has no label and '='", "It is LABEL=CLASS", "Write --map glioma=Tumor")
        if found.setdefault(label, name or None) != (name or None):
            raise UsageError(f"--map gives {label!r} two classes", "A label stands for one class", "Leave one of them out")
    return found
