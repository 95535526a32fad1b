"""``reslink.explain``: attention maps and attribution maps of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import InputError
from reslink.files import check_folder_path, exists_error

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.explain.explain_files import Explanation
    from reslink.explain.randomization_check import RandomizationCheck
    from reslink.labels import Labels


def explain(
    bundle: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    target: str | None = None,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    sanity: bool = True,
    device: str = "auto",
    overwrite: bool = False,
    progress: ShowProgress = False,
) -> list[Explanation]:
    """Draws attention maps, Grad-CAM, integrated gradients and occlusion maps over images. Imports torch.

    Args:
        bundle: The name of a shipped model, or the folder of a bundle or run.
        images: A file, folder, glob or DICOM series, or several. A CSV or a folder with a ``manifest.csv`` is read as a data
            set; its lesion masks are then compared with the maps.
        out: Output folder for pictures, maps and ``explain.json``.
        target: The class to explain; default: the positive class of two, or the predicted class of more.
        methods: Names of the methods; default: ``first_attention``, ``final_attention``, ``grad_cam``,
            ``integrated_gradients`` and ``occlusion``.
        limit: Maximum number of images (each slice of a volume counts as one); None for all.
        sanity: Whether to compare the maps with those of a network with randomized weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        overwrite: Replace earlier explanations in ``out``.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        One explanation per image or slice, with the prediction, the file names and the measures of each map.

    Raises:
        UsageError: If a method or class is unknown, or ``out`` holds explanations.

    Example:
        >>> import reslink
        >>> [explanation] = reslink.explain("runs/first/bundle", "scan.png", "explained")  # doctest: +SKIP
        >>> explanation.panel  # doctest: +SKIP
        'scan.png'
    """
    return run_explain(
        bundle,
        [images] if isinstance(images, str | Path) else images,
        Path(out),
        target=target,
        methods=methods,
        limit=limit,
        sanity=sanity,
        device=device,
        overwrite=overwrite,
        progress=progress,
    ).explanations


@dataclass(frozen=True)
class ExplainOutput:
    """The explanations of some images.

    Attributes:
        bundle: The explained bundle.
        explanations: One per image or slice.
        checks: One model-randomization check per method; empty if switched off.
    """

    bundle: Bundle
    explanations: list[Explanation]
    checks: list[RandomizationCheck]


def run_explain(
    bundle: str | Path,
    images: Iterable[str | Path],
    out: Path,
    *,
    target: str | None,
    methods: Sequence[str] | None,
    limit: int | None,
    sanity: bool,
    device: str,
    overwrite: bool,
    progress: ShowProgress,
) -> ExplainOutput:
    """Explains images; see :func:`explain`."""
    from reslink.explain.picture_files import previous_pictures

    check_folder_path(out)
    if previous_pictures(out) and not overwrite:
        raise exists_error(out, "explanations")
    from reslink.explain.explain_files import METHODS, ExplainOptions, explain_paths
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle, device=device)
    if target is not None:
        classifier.labels.index(target)  # raises for an unknown class
    files, masks = _files_and_masks(images, classifier.labels)
    checks: list[RandomizationCheck] = []
    listener = resolve_progress(progress)
    listener.start(len(files[:limit]) + sanity, "Explaining")  # the randomization check takes as long as an image or longer
    try:
        explanations = explain_paths(
            classifier,
            files,
            out,
            ExplainOptions(tuple(methods or METHODS), masks, target, sanity, limit, overwrite),
            on_explanation=lambda explanation: None if explanation.slice else listener.step(),  # a volume is one step
            on_check=checks.append,
        )
        if sanity:
            listener.step()
    finally:
        listener.end()
    return ExplainOutput(classifier.bundle, explanations, checks)


def _files_and_masks(paths: Iterable[str | Path], labels: Labels) -> tuple[list[str | Path], dict[str, Path]]:
    from reslink.datasets.manifest import Manifest

    files: list[str | Path] = []
    masks: dict[str, Path] = {}
    for path in paths:
        if not str(path).lower().endswith(".csv") and not (Path(path) / "manifest.csv").is_file():
            files += _images_in(path)
            continue
        cases = Manifest.open(path, labels=labels).cases
        files += [case.path for case in cases]
        masks |= {str(case.path): case.mask for case in cases if case.mask is not None}
    return files, masks


def _images_in(path: str | Path) -> Sequence[str | Path]:
    """Returns the images in a path; a path without images is returned itself, so that its error is reported later."""
    from reslink.imaging.reading import find_images

    try:
        return find_images([path])
    except InputError:
        return [path]
