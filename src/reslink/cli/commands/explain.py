"""``reslink explain``: where the network looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.command import refuse_file, replaced_unasked
from reslink.cli.console import Console
from reslink.cli.options import BundleFolder, Device, Images, Json, Overwrite
from reslink.cli.prediction_text import abstention, failure, known_first
from reslink.errors import InputError

if TYPE_CHECKING:
    from reslink.explain.run import Explanation
    from reslink.explain.sanity import RandomisationCheck
    from reslink.labels import Labels

EXAMPLES = (
    "reslink explain runs/first/bundle scan.png --out explained",
    "reslink explain runs/first/bundle cohort/manifest.csv --limit 20 --out measured",
)


def explain(
    console: Console,
    bundle: BundleFolder,
    paths: Images,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="The class to explain; default: the positive one of two."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="first_attention, final_attention, grad_cam, integrated_gradients, occlusion; may be repeated."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most so many images; a slice of a volume is one.", show_default=False),
    ] = None,
    sanity: Annotated[bool, typer.Option(help="Compare the maps with those of randomised weights.")] = True,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw attention, Grad-CAM, integrated gradients and occlusion over images.

    A PATH that is a CSV is read as a manifest; with its lesion masks it is measured whether the maps meet the lesion.
    """
    refuse_file(out, "--out")
    from reslink.explain.picture_names import earlier_pictures

    if earlier_pictures(out) and not overwrite:
        raise replaced_unasked(out, "explanations")
    from reslink.explain.run import METHODS, explain_paths
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle, device=device)
    files, masks = _files(paths, classifier.labels)
    checks: list[RandomisationCheck] = []
    progress = console.progress()
    steps = len(files[:limit])
    progress.start(steps + sanity, "Explaining")  # the randomisation check takes as long as an image or longer
    try:
        done = explain_paths(
            classifier,
            files,
            out,
            methods=tuple(method or METHODS),
            masks=masks,
            target=target,
            sanity=sanity,
            limit=limit,
            overwrite=overwrite,
            progress=lambda explanation: None if explanation.slice else progress.step(),  # a volume is one step
            checked=checks.append,
        )
        if sanity:
            progress.step()
    finally:
        progress.end()
    if json:
        for explanation in done:
            console.json(explanation.as_dict())
        _show_checks(console, [check for check in checks if not check.passed])
    else:
        _show(console, done, out)
        _show_checks(console, checks)
        if any(explanation.panel is not None for explanation in done):
            console.note(f"Pictures, maps and explain.json: {out}")
        else:
            console.note(f"Nothing was explained; {out / 'explain.json'} says why")
        known_first(console, classifier.bundle, answered=any(explanation.error is None for explanation in done))
    if any(explanation.error is not None for explanation in done):
        raise typer.Exit(1)


def _files(paths: list[str], labels: Labels) -> tuple[list[str | Path], dict[str, Path]]:
    from reslink.datasets.manifest import Manifest

    files: list[str | Path] = []
    masks: dict[str, Path] = {}
    for path in paths:
        if not path.lower().endswith(".csv") and not (Path(path) / "manifest.csv").is_file():
            files += _found(path)
            continue
        cases = Manifest.open(path, labels=labels).cases
        files += [case.path for case in cases]
        masks |= {str(case.path): case.mask for case in cases if case.mask is not None}
    return files, masks


def _found(path: str) -> Sequence[str | Path]:
    """Returns the images of a path; a path that has none stands for itself and is reported later."""
    from reslink.imaging.reading import find_images

    try:
        return find_images([path])
    except InputError:
        return [path]


def _show(console: Console, done: list[Explanation], out: Path) -> None:
    for explanation in done:
        if explanation.error is not None:
            console.warn(failure(explanation.path, explanation.path, explanation.error))
        elif explanation.probability is not None:
            abstains = abstention(explanation.abstain, explanation.reasons)
            console.data(f"{explanation.label}\t{explanation.probability:.3f}\t{out / str(explanation.panel)}{abstains}")
    means = measured(done)
    if means:
        console.table(("map", ">lesions", ">pointing game", ">energy inside", ">IoU"), means)


def _show_checks(console: Console, checks: Sequence[RandomisationCheck]) -> None:
    for check in checks:
        said = f"Randomisation check of {check.method} {check.verdict}"
        console.note(said) if check.passed else console.warn(f"Warning: {said}")


def measured(done: list[Explanation]) -> list[tuple[str, ...]]:
    """Returns a row a method: cases with a lesion, share of hits, mean energy inside, mean IoU."""
    rows = []
    for name in dict.fromkeys(name for explanation in done for name in explanation.methods or {}):
        found: list[dict[str, Any]] = [e.methods[name] for e in done if e.methods and name in e.methods]
        hits = [numbers for numbers in found if "pointing_game" in numbers]
        if hits:
            means = (_mean(hits, key) for key in ("pointing_game", "energy_inside", "iou"))
            rows.append((name, str(len(hits)), *means))
    return rows


def _mean(found: list[dict[str, Any]], key: str) -> str:
    values = [float(numbers[key]) for numbers in found if numbers[key] is not None]
    return f"{sum(values) / len(values):.3f}" if values else "–"
