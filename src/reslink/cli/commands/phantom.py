"""``reslink phantom``: a cohort of synthetic heads to try everything on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from reslink.cli.command import refuse_file
from reslink.cli.console import Console
from reslink.cli.options import Set
from reslink.errors import UsageError

EXAMPLES = (
    "reslink phantom --out heads --patients 40 --seed 1",
    "reslink phantom --out mr --patients 20 --set modality=T1 --set format=nifti",
)


def phantom(
    console: Console,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    patients: Annotated[int, typer.Option("--patients", min=1, help="How many patients.")] = 40,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed makes other heads.")] = 0,
    sets: Set = None,
) -> None:
    """Write synthetic CT or MR heads with and without lesions: images, lesion masks and manifest.csv."""
    refuse_file(out, "--out")
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    settings = PhantomSettings.parse(tree(sets or ()) | {"patients": patients, "seed": seed})
    progress = console.progress()
    progress.start(patients, "Drawing patients")
    try:
        make_cohort(out, settings, progress=lambda *_: progress.step())
    finally:
        progress.end()
    console.note(f"{patients} patients in {out}")
    console.data(str(out / "manifest.csv"))


def tree(sets: Iterable[str]) -> dict[str, Any]:
    """Returns the nested values of texts ``a.b=value``, each value read as YAML.

    Raises:
        UsageError: If a text has no '=', its value is not YAML, or a key is a value and a section.
    """
    import yaml

    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} has no '='", "It is key=value", f"Write --set {text}=VALUE")
        *sections, name = key.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UsageError(f"{section!r} is a value and a section", "A key is one of them", "Correct --set")
        try:
            node[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {text!r} has a value that cannot be read", "It is YAML", "Quote it") from None
    return values
