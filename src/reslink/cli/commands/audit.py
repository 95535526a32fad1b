"""``reslink audit``: checks a data set before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.cluster_options import On, ShardSize, check_address, shard_files
from reslink.cli.console import Console
from reslink.cli.options import FOLDER, Columns, Corrections, DataSets, Json, LabelColumns, LabelMap, Overwrite, Root, Unit
from reslink.errors import CheckFailedError

if TYPE_CHECKING:
    from reslink.audit.clean_copy.clean_copy import CleanCopy

EXAMPLES = (
    "reslink audit images/ --out audited",
    "reslink audit cohort.csv --json > audit.json",
    "reslink audit images/ --out audited --fix clean/",
    "reslink audit images/ --out audited --predictions cv/out_of_fold.csv",
    "reslink audit cohort.csv --out audited --labels epidural,subdural",
    "reslink audit clinic-a/ clinic-b/ --out audited --labels-from clinic-b",
)


def audit(
    console: Console,
    data: DataSets,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for audit.json and the report.",
            show_default="audit, unless --json or --fix is given",
        ),
        FOLDER,
    ] = None,
    label_map: LabelMap = None,
    corrections: Corrections = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    labels: LabelColumns = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix", metavar="DIR", help="Folder for a clean copy of the data set; default: no copy.", show_default=False
        ),
        FOLDER,
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Out-of-fold predictions for the label error check, such as out_of_fold.csv of reslink cv; default: a quick "
            "model.",
            show_default=False,
        ),
    ] = None,
    labels_from: Annotated[
        str | None,
        typer.Option(
            "--labels-from",
            metavar="SET",
            help="Data set (or source) whose labels are trusted: label_corrections.csv lists the images that others label "
            "differently; default: none.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of folds, forests and bootstrap.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Number of processes that read files, 0 for none; default: automatic.", show_default=False
        ),
    ] = None,
    on: On = None,
    shard_size: ShardSize = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Check a data set for leakage, near duplicates, shortcuts, burned-in text, identity, label errors and broken files.

    Exit code 3 if a check fails: near duplicates or a patient in more than one split, an image with more than one label, or a
    class that can be predicted from file metadata or from the pixels outside the head.
    """
    from reslink.api.audit import run_audit

    if out is None and fix is None and not json:
        out = Path("audit")
    output = run_audit(
        data,
        out,
        fix,
        map=label_map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        labels=labels,
        predictions=predictions,
        labels_from=labels_from,
        seed=seed,
        workers=workers,
        on=check_address(on),
        shard_size=shard_files(shard_size, on),
        overwrite=overwrite,
        progress=console.progress(),
    )
    if output.clean_copy is not None and fix is not None:
        _print_clean_copy(console, output.clean_copy, fix)
    for item in output.result["files"]["corrupt"]:
        console.warn(f"{item['path']} is skipped: {item['message']}")
    if json:
        console.json(output.result)
    else:
        _print_checks(console, output.result)
        for name, path in (("page", output.page), ("clean copy", fix)):
            if path is not None:
                console.note(f"{name}: {path}")
        console.research_use_only()
    _set_exit_code(output.result, output.clean_copy)


def _print_clean_copy(console: Console, copy: CleanCopy, folder: Path) -> None:
    changes = folder / "private" / "changes.csv"
    console.note(f"{copy.kept} of {len(copy.changes)} images are in the clean copy; {changes} lists the reasons")
    for note in copy.notes:
        console.warn(note)
    for change in copy.changes:
        if change.source in copy.failed:
            console.warn(f"{change.source}, clean copy: {change.reason}")


def _print_checks(console: Console, result: dict[str, Any]) -> None:
    """Prints one line per check; informational results and skipped checks follow."""
    from reslink.audit.result import NO_SPLIT

    rows = [(check["check"], "fail" if check["failed"] else "pass", check["reason"]) for check in result["checks"]]
    rows = [(name, "not checked" if reason == NO_SPLIT else status, reason) for name, status, reason in rows]
    rows += [(name, "", text) for name, text in _informational(result)]
    rows += [(entry["check"], "skipped", entry["reason"]) for entry in result["skipped_checks"]]
    if result["verdict"] == "incomplete":
        console.warn("Incomplete: no check failed, but some checks were skipped.")
    console.table(("check", "result", "details"), rows, title=f"{result['images']} images, {result['groups']} groups")


def _informational(result: dict[str, Any]) -> list[tuple[str, str]]:
    groups, errors = result["near_duplicates"], result["suspected_label_errors"]
    rows = [("near_duplicates", f"{sum(map(len, groups))} images in {len(groups)} groups of near duplicates")]
    for probe in result["shortcuts"]:
        if not probe["is_check"]:
            value = probe["balanced_accuracy"]
            interval = "" if value["ci_low"] is None else f", 95 % interval {value['ci_low']:.3f} to {value['ci_high']:.3f}"
            rows.append(
                (
                    probe["probe"] if probe["label"] is None else f"{probe['probe']}: {probe['label']}",
                    f"balanced accuracy {value['estimate']:.3f}{interval} (uses brain pixels; never fails the audit)",
                )
            )
    rows += _sources(result)
    rows.append(("burned_in_text", f"{len(result['burned_in_text'])} images with regions that look like text"))
    rows.append(("identity", f"{len(result['identity'])} files with attributes that can identify a person"))
    confident = sum(error["confident"] for error in errors)
    if not result["several_labels"]:
        caution = f". Caution: {result['label_error_caution']}" if result["label_error_caution"] else ""
        rows.append(
            (
                "suspected_label_errors",
                f"{len(errors)} images with an unlikely label by the {result['label_error_source']}; confident learning "
                f"reports {confident} of them{caution}",
            )
        )
    rows += [(f"files: {kind}", f"{len(items)} files") for kind, items in result["files"].items() if items]
    return rows


def _sources(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns what the sources reveal, and the corrections by a trusted one."""
    if "sources" not in result:
        return []
    found, probe = result["sources"], result["sources"]["outside_head"]
    rows = [("near_duplicates: sources", text) for text in result["shared_images"]]
    rows += [("label_conflicts: sources", text) for text in result["source_conflict_notes"]]
    if probe is not None:
        value = f"{_estimate(probe['balanced_accuracy'])}, chance {probe['chance']:.3f}"
        rows.append(("sources: outside_head", f"the source from the pixels outside the head alone: balanced accuracy {value}"))
    for one in found["labels"]:
        what = "the class" if one["label"] is None else f"the label {one['label']!r}"
        value = f"{_estimate(one['balanced_accuracy'])}, chance {one['chance']:.3f}; Cramér's V {one['cramers_v']:.3f}"
        rows.append((f"sources: {one['label'] or 'class'}", f"{what} from the source alone: balanced accuracy {value}"))
    if found["conclusion"]:
        rows.append(("sources", found["conclusion"].removesuffix(".")))
    if "label_corrections" in result:
        rows.append(("label_corrections", result["label_corrections"]["summary"]))
    return rows


def _estimate(value: dict[str, Any]) -> str:
    interval = "" if value["ci_low"] is None else f" (95 % interval {value['ci_low']:.3f} to {value['ci_high']:.3f})"
    return f"{value['estimate']:.3f}{interval}"


def _set_exit_code(result: dict[str, Any], clean: CleanCopy | None) -> None:
    """Ends the command with exit code 3 if a check failed, and with 1 if a file could not be read or copied."""
    failed = [check["reason"] for check in result["checks"] if check["failed"]]
    if failed:
        raise CheckFailedError(
            f"The data set fails {len(failed)} of {len(result['checks'])} checks: " + "; ".join(failed),
            "Metrics measured on this data set describe the data set rather than the model",
            "Review the results; "
            + ("audit the clean copy" if clean is not None else "reslink audit --fix DIR writes a clean copy")
            + ", and reslink split makes a split without leakage",
        )
    if result["files"]["corrupt"] or (clean is not None and clean.failed):
        raise typer.Exit(1)
