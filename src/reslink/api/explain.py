"""``reslink.explain``: attention maps and attribution maps of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.api.data_argument import Columns
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import InputError, UsageError, check_choice
from reslink.files import check_folder_path, exists_error
from reslink.training.monitoring.progress import phase

if TYPE_CHECKING:
    from torch import nn

    from reslink.bundles.bundle import Bundle
    from reslink.explain.explain_files import ExplainOptions, Explanation
    from reslink.explain.randomization_check import RandomizationCheck
    from reslink.networks.entry_points import Builder


def explain(
    bundle: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    target: str | None = None,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    sequence: str | None = None,
    sanity: bool = True,
    network: str | Builder | nn.Module | None = None,
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
        methods: Names of the methods; default: ``final_attention``, ``grad_cam``, ``integrated_gradients`` and
            ``occlusion``. ``first_attention`` is drawn only if it is named.
        limit: Maximum number of images (each slice of a volume counts as one); None for all.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        sequence: The MR sequence of images for which no table states one, such as ``T1C+``; None takes what each file states.
        sanity: Whether to compare the maps with those of a network with randomized weights.
        network: Your own network that the bundle was trained with, as for :func:`reslink.train`; not needed for others.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        overwrite: Replace earlier explanations in ``out``.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        One explanation per image or slice, with the prediction, the file names and the measures of each map.

    Raises:
        UsageError: If a method, class or unit is unknown, ``sequence`` is empty, ``out`` holds explanations, or ``columns`` or
            ``root`` is given without a table.

    Example:
        >>> import reslink
        >>> [explanation] = reslink.explain("runs/first/bundle", "scan.png", "explained")  # doctest: +SKIP
        >>> explanation.panel  # doctest: +SKIP
        'scan.png'
    """
    from reslink.imaging.spellings import parse_sequence, parse_unit

    stated = parse_unit(unit)
    loaded, checked_methods = check_and_load(bundle, target, methods, network)
    from reslink.explain.explain_files import ExplainOptions

    paths = [images] if isinstance(images, str | Path) else images
    options = ExplainOptions(
        checked_methods,
        target=target,
        randomization_check=sanity,
        limit=limit,
        overwrite=overwrite,
        unit=stated,
        sequence=parse_sequence(sequence),
        columns=columns,
        root=root,
    )
    return run_explain(loaded, paths, Path(out), options, device, progress).explanations


def check_and_load(
    bundle: str | Path, target: str | None, methods: Sequence[str] | None, network: str | Builder | nn.Module | None = None
) -> tuple[Bundle, tuple[str, ...]]:
    """Returns the bundle and the methods, by default ``DEFAULT_METHODS``, before torch is imported.

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If the class or a method does not exist.
    """
    from reslink.bundles.bundle import Bundle
    from reslink.explain.display import DEFAULT_METHODS, METHODS

    for name in methods or ():
        check_choice("method", name, METHODS)
    loaded = Bundle.load(bundle, network)
    if target is not None:
        loaded.labels.index(target)  # raises for an unknown class
    return loaded, tuple(methods or DEFAULT_METHODS)


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
    bundle: Bundle,
    images: Iterable[str | Path],
    out: Path,
    options: ExplainOptions,
    device: str,
    progress: ShowProgress,
) -> ExplainOutput:
    """Explains images; see :func:`explain`. The lesion masks of a data set are added to the options."""
    from reslink.explain.explain_files import explain_paths
    from reslink.explain.picture_files import previous_pictures
    from reslink.inference.classifier import Classifier

    check_folder_path(out)
    if previous_pictures(out) and not options.overwrite:
        raise exists_error(out, "explanations")
    classifier = Classifier.load(bundle, device=device)
    files, options = _files_of(images, bundle, options)
    checks: list[RandomizationCheck] = []
    listener = resolve_progress(progress)
    done: set[str] = set()
    steps = len(files[: options.limit]) + options.randomization_check  # which takes as long as an image or longer
    with phase(listener, steps, "Explaining"):
        explanations = explain_paths(
            classifier,
            files,
            out,
            options,
            on_explanation=lambda explanation: listener.step(_is_new(explanation.path, done)),  # a volume is one step
            on_check=checks.append,
        )
        if options.randomization_check:
            listener.step()
    return ExplainOutput(classifier.bundle, explanations, checks)


def _is_new(path: str, done: set[str]) -> int:
    is_new = path not in done
    done.add(path)
    return int(is_new)


def _files_of(paths: Iterable[str | Path], bundle: Bundle, options: ExplainOptions) -> tuple[list[str | Path], ExplainOptions]:
    """Returns the images, and the options with the lesion masks, units and sequences of data sets among the paths."""
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.tables.files import find_table
    from reslink.datasets.tables.parquet_file import SUFFIX

    files: list[str | Path] = []
    masks: dict[str, Path] = {}
    units: dict[str, str] = {}
    sequences: dict[str, str] = {}
    n_tables = 0
    for path in paths:
        if not str(path).lower().endswith((".csv", SUFFIX)) and (not Path(path).is_dir() or find_table(Path(path)) is None):
            files += _images_in(path) if bundle.case == "slice" else [path]
            continue
        n_tables += 1
        cases = Manifest.open(path, labels=bundle.labels, columns=options.columns, root=options.root, case=bundle.case).cases
        files += [case.path for case in cases]
        masks |= {str(case.path): case.mask for case in cases if case.mask is not None}
        units |= {str(case.path): case.unit for case in cases if case.unit is not None}
        sequences |= {str(case.path): case.sequence for case in cases if case.sequence is not None}
    if (options.columns or options.root) and not n_tables:
        raise UsageError("No table was given, but --columns or --root", "Both describe a table", "Remove them, or give a table")
    return files, replace(options, masks=masks, units=units, sequences=sequences)


def _images_in(path: str | Path) -> Sequence[str | Path]:
    """Returns the images in a path; a path without images is returned itself, so that its error is reported later."""
    from reslink.imaging.search import find_images

    try:
        return find_images([path])
    except InputError:
        return [path]
