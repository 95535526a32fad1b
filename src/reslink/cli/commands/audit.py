"""``reslink audit``: what is wrong with a data set, before anybody learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Data, Json, Overwrite
from reslink.errors import GateError

if TYPE_CHECKING:
    from reslink.audit.clean_copy.clean_copy import CleanCopy
    from reslink.datasets.manifest import Manifest

EXAMPLES = (
    "reslink audit images/ --out audited",
    "reslink audit cohort.csv --json > audit.json",
    "reslink audit images/ --out audited --fix clean/",
)


def audit(
    console: Console,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for audit.json and the page.",
            show_default="audit, unless --json or --fix is given",
        ),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option("--fix", metavar="DIR", help="Also write a clean copy of the data here.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of folds, forests and bootstrap.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that read files; 0 for none.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Look for twins, leaks, shortcuts, burned-in text, identity, label errors and broken files.

    Exit code 3 where a gate fails: near copies or a patient on two sides of the given split, one image under two labels,
    and a class that can be told from the file's facts or from what lies outside the head.
    """
    from reslink.audit.audit import audit as run
    from reslink.cli.commands.audit_folders import check_fix, check_out
    from reslink.datasets.manifest import Manifest

    if out is None and fix is None and not json:
        out = Path("audit")
    manifest = Manifest.open(data, learnable=False)
    if out is not None:
        check_out(out, manifest, overwrite)
    if fix is not None:
        check_fix(fix, manifest, out)
    progress = console.progress()
    try:
        found = run(manifest, out, progress=progress, seed=seed, workers=workers)
        page = _page(found, manifest, out)
        clean = _clean(console, found, manifest, fix, progress)
    finally:
        progress.end()
    for item in found["files"]["corrupt"]:
        console.warn(f"{item['path']} is left out: {item['message']}")
    if json:
        console.json(found)
    else:
        _say(console, found)
        for name, path in (("page", page), ("clean copy", fix)):
            if path is not None:
                console.note(f"{name}: {path}")
        console.research_use_only()
    _judge(found, clean)


def _page(found: dict[str, Any], manifest: Manifest, out: Path | None) -> Path | None:
    if out is None:
        return None
    from reslink.reports.audit.page import audit_report

    return audit_report(found, manifest, out)


def _clean(console: Console, found: dict[str, Any], manifest: Manifest, folder: Path | None, progress: Any) -> CleanCopy | None:
    if folder is None:
        return None
    from reslink.audit.clean_copy.clean_copy import write_clean_copy

    copy = write_clean_copy(manifest, found, folder, progress=progress)
    console.note(f"{copy.kept} of {len(copy.changes)} images in the clean copy; {folder / 'private' / 'changes.csv'} says why")
    for note in copy.notes:
        console.warn(note)
    for change in copy.changes:
        if change.source in copy.failed:
            console.warn(f"{change.source}, clean copy: {change.reason}")
    return copy


def _say(console: Console, found: dict[str, Any]) -> None:
    """Writes one line a check, the gates first."""
    rows = [(gate["gate"], "fail" if gate["failed"] else "pass", gate["reason"]) for gate in found["gates"]]
    rows += [(name, "", text) for name, text in _informing(found)]
    rows += [(entry["check"], "not done", entry["reason"]) for entry in found["not_done"]]
    if found["verdict"] == "incomplete":
        console.warn("Incomplete: no gate failed, but not every gate could be checked (not done).")
    console.table(("check", "gate", "found"), rows, title=f"{found['images']} images, {found['groups']} groups")


def _informing(found: dict[str, Any]) -> list[tuple[str, str]]:
    copies, errors = found["twins"], found["suspected_label_errors"]
    rows = [("twins", f"{sum(map(len, copies))} images in {len(copies)} groups of near copies")]
    for probe in found["shortcuts"]:
        if not probe["gate"]:
            value = probe["balanced_accuracy"]
            between = "" if value["ci_low"] is None else f", 95 % interval {value['ci_low']:.3f} to {value['ci_high']:.3f}"
            rows.append((probe["probe"], f"balanced accuracy {value['estimate']:.3f}{between} (it sees the brain: no gate)"))
    rows.append(("burned_in_text", f"{len(found['burned_in_text'])} images with regions that look like text"))
    rows.append(("identity", f"{len(found['identity'])} files with attributes that can identify a person"))
    sure = sum(error["confident"] for error in errors)
    rows.append(("suspected_label_errors", f"{len(errors)} images with an unlikely label, {sure} of them with confidence"))
    rows += [(f"files: {kind}", f"{len(items)} files") for kind, items in found["files"].items() if items]
    return rows


def _judge(found: dict[str, Any], clean: CleanCopy | None) -> None:
    failed = [gate["reason"] for gate in found["gates"] if gate["failed"]]
    if failed:
        raise GateError(
            f"The data set fails {len(failed)} of {len(found['gates'])} gates: " + "; ".join(failed),
            "A figure measured on such data says more about the data than about a model",
            "Look at what was found; "
            + ("audit the clean copy" if clean is not None else "reslink audit --fix DIR writes a clean copy")
            + ", reslink split divides without leaks",
        )
    if found["files"]["corrupt"] or (clean is not None and clean.failed):
        raise typer.Exit(1)
