"""``reslink explain``: attention and attribution maps of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import (
    BundleFolder,
    Columns,
    Device,
    Images,
    Json,
    MRSequence,
    OutFolder,
    Overwrite,
    OwnNetwork,
    Root,
    Unit,
)
from reslink.cli.prediction_text import (
    NO_ANSWER,
    abstention_cells,
    caution,
    error_line,
    label_cells,
    prediction_cells,
    print_usage_notes,
)
from reslink.reports.formatting import format_count

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.explain.explain_files import Explanation
    from reslink.explain.randomization_check import RandomizationCheck

EXAMPLES = (
    "reslink explain runs/first/bundle scan.png --out explained",
    "reslink explain runs/first/bundle cohort/manifest.csv --limit 20 --out measured",
)


def explain(
    console: Console,
    bundle: BundleFolder,
    paths: Images,
    out: OutFolder,
    target: Annotated[
        str | None,
        typer.Option(
            "--class",
            "--label",
            metavar="NAME",
            help="Class to explain; default: the positive class of two, the predicted class, or the most probable label.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="final_attention, grad_cam, integrated_gradients, occlusion or first_attention; repeatable; "
            "default: all but first_attention.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Maximum number of images (each volume slice counts as one).", show_default=False),
    ] = None,
    columns: Columns = None,
    root: Root = None,
    unit: Unit = None,
    sequence: MRSequence = None,
    sanity: Annotated[bool, typer.Option(help="Compare the maps with those of randomized weights.")] = True,
    network: OwnNetwork = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw attention maps, Grad-CAM, integrated gradients and occlusion maps over images.

    A PATH that is a table (CSV or Parquet) is read as a data set; the maps are then compared with its lesion masks.
    """
    from reslink.api.explain import check_and_load, run_explain

    loaded, methods = check_and_load(bundle, target, method, network)
    from reslink.explain.explain_files import ExplainOptions

    options = ExplainOptions(
        methods,
        target=target,
        randomization_check=sanity,
        limit=limit,
        overwrite=overwrite,
        unit=unit,
        sequence=sequence,
        columns=columns,
        root=root,
    )
    output = run_explain(loaded, paths, out, options, device, console.progress())
    failed = [explanation for explanation in output.explanations if explanation.error is not None]
    if json:
        for explanation in output.explanations:
            console.json(explanation.as_dict())
        _print_checks(console, [check for check in output.checks if not check.passed])
    else:
        _print_explanations(console, output.explanations, out, output.bundle)
        _print_checks(console, output.checks)
        if len(failed) < len(output.explanations):
            console.note(f"Pictures, maps and explain.json: {out}")
        else:
            console.note(f"No image was explained; {out / 'explain.json'} lists the errors")
        print_usage_notes(console, output.bundle, predicted=len(failed) < len(output.explanations))
    if failed:
        raise typer.Exit(1)


def _print_explanations(console: Console, explanations: list[Explanation], out: Path, bundle: Bundle) -> None:
    decision, warning = bundle.decision, caution(bundle)
    for explanation in explanations:
        if explanation.error is not None:
            console.warn(error_line(explanation.path, explanation.path, explanation.error))
        elif explanation.label is None:
            console.row(NO_ANSWER, "refused", explanation.path, *(explanation.reasons or ()))
        elif explanation.by_label is not None:
            cells = label_cells(explanation.label, explanation.by_label, {})
            answer = NO_ANSWER if explanation.abstain else cells[0]
            abstains = abstention_cells(explanation.abstain, explanation.reasons)
            console.row(answer, cells[1], str(out / str(explanation.panel)), *abstains)
        elif explanation.probability is not None:
            probabilities = explanation.probabilities or {}
            certainty = decision.certainty(list(probabilities.values()), explanation.abstain)
            cells = prediction_cells(str(explanation.label), probabilities, decision.threshold, certainty, caution=warning)
            abstains = abstention_cells(explanation.abstain, explanation.reasons)
            weight = [] if explanation.weight is None else [f"weight {explanation.weight:.2f}"]
            console.row(*cells, str(out / str(explanation.panel)), *weight, *abstains)
    new = [explanation for explanation in explanations if not explanation.training_image]
    rows = localization_rows(new)
    if rows:
        console.table(("map", ">lesions", ">pointing game", ">energy inside", ">IoU"), rows)
    _print_training_images(console, explanations, measured=bool(localization_rows(explanations)), has_table=bool(rows))


def _print_training_images(console: Console, explanations: list[Explanation], *, measured: bool, has_table: bool) -> None:
    """Says how many images the model was trained on, or that this is not known.

    Args:
        console: The output.
        explanations: The explanations.
        measured: Whether maps were compared with lesion masks.
        has_table: Whether some of these images are not training images.
    """
    drawn = [explanation for explanation in explanations if explanation.panel is not None]
    n = sum(explanation.training_image is True for explanation in drawn)
    left_out = "; they are left out of the table" if has_table else "; the measures of their maps are in explain.json only"
    if n:
        console.warn(
            f"Warning: the model was trained on {n} of {format_count(len(drawn), 'image')}, or on near duplicates"
            f"{left_out if measured else ''}. "
            "Their maps say little about new images"
        )
    if has_table and any(explanation.training_image is None for explanation in drawn):
        console.warn("Warning: it is not known which images the model was trained on; the table can be too good")


def _print_checks(console: Console, checks: Sequence[RandomizationCheck]) -> None:
    for check in checks:
        text = f"Randomization check of {check.method} {check.verdict}"
        console.note(text) if check.passed else console.warn(f"Warning: {text}")


def localization_rows(explanations: list[Explanation]) -> list[tuple[str, ...]]:
    """Returns one row per method: number of cases with a lesion mask, pointing-game rate, mean energy inside, mean IoU."""
    rows = []
    for name in dict.fromkeys(name for explanation in explanations for name in explanation.methods or {}):
        measures: list[dict[str, Any]] = [e.methods[name] for e in explanations if e.methods and name in e.methods]
        with_mask = [values for values in measures if "pointing_game" in values]
        if with_mask:
            means = (_mean(with_mask, key) for key in ("pointing_game", "energy_inside", "iou"))
            rows.append((name, str(len(with_mask)), *means))
    return rows


def _mean(measures: list[dict[str, Any]], key: str) -> str:
    values = [float(row[key]) for row in measures if row[key] is not None]
    return f"{sum(values) / len(values):.3f}" if values else "–"
