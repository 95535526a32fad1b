"""``reslink phantom``: writes synthetic heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import OutFolder, Overwrite
from reslink.errors import UsageError
from reslink.training.monitoring.progress import phase

EXAMPLES = (
    "reslink phantom --out heads --patients 40 --seed 1",
    "reslink phantom --out mr --patients 20 --set modality=T1 --set format=nifti",
    "reslink phantom --out series --patients 20 --set case=series --set slices=12 --set format=nifti",
)


def phantom(
    console: Console,
    out: OutFolder,
    patients: Annotated[int, typer.Option("--patients", min=1, help="Number of patients.")] = 40,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the heads.")] = 0,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a property of the heads, such as modality=T1, slices=3 or faults.text=0.5; repeatable.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write synthetic CT or MR heads with and without lesions: images, lesion masks and manifest.csv."""
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    settings = PhantomSettings.parse(parse_settings(sets or ()) | {"patients": patients, "seed": seed})
    progress = console.progress()
    with phase(progress, patients, "Drawing patients", "patient"):
        make_cohort(out, settings, on_progress=lambda *_: progress.step(), overwrite=overwrite)
    console.note(f"{patients} patients in {out}")
    console.data(str(out / "manifest.csv"))


def parse_settings(sets: Iterable[str]) -> dict[str, Any]:
    """Returns the nested dictionary of texts ``a.b=value``; each value is read as YAML.

    Raises:
        UsageError: If a text has no '=', its value is not YAML, or a key is both a value and a section.
    """
    from reslink.settings_text import parse_yaml

    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} has no '='", "The form is KEY=VALUE", f"Use --set {text}=VALUE")
        *sections, name = key.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UsageError(f"{section!r} is both a value and a section", "A key is one of them", "Correct --set")
        try:
            node[name] = parse_yaml(value)
        except ValueError:
            raise UsageError(f"The value of --set {text!r} is not valid", "Values are YAML", "Quote the value") from None
    return values
