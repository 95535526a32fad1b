"""External evaluation: what a frozen model achieves on data of another site, scanner or modality, and how that data differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.datasets.joined_manifest import data_set_names
from reslink.datasets.label_map import LabelMap, check_label_map, map_of_set
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError, suggest
from reslink.evaluation.subgroup_columns import check_columns
from reslink.experiments.external.evaluation import DatasetEvaluation, DatasetEvaluator
from reslink.experiments.external.tables import make_report
from reslink.files import check_overwrite
from reslink.training.monitoring.progress import Progress, SilentProgress


@dataclass(frozen=True)
class ExternalOptions:
    """Options of an external evaluation.

    Attributes:
        label_map: The class of each label of the external data, or of one data set as ``SET:LABEL``; None excludes its cases.
            A label that a data set does not have is ignored there.
        internal: Data from the same source as the training data; its training cases are excluded.
        max_images: Maximum number of images per data set, sampled at random; None takes all.
        device: See :func:`reslink.inference.devices.pick_device`.
        seed: Seed of the sample and the bootstrap.
        columns: Role to column of the tables (``Manifest.open``).
        root: Folder that the paths in the tables start from; None for the folder of each table.
        unit: Unit of the images for which neither file nor table states one (``Manifest.open``).
        by: More subgroup columns of the external data, next to its source and columns of 0 and 1.
    """

    label_map: LabelMap = field(default_factory=dict)
    internal: str | Path | None = None
    max_images: int | None = None
    device: str = "auto"
    seed: int = 0
    columns: Sequence[str] | None = None
    root: Path | None = None
    unit: str | None = None
    by: Sequence[str] = ()


def check_out(out: Path, overwrite: bool) -> None:
    """Checks that nothing is lost when the results are written to a folder.

    Args:
        out: The output folder.
        overwrite: Whether an earlier external evaluation may be overwritten.

    Raises:
        UsageError: If the folder holds a run or a bundle, or an earlier result and ``overwrite`` is false.
    """
    check_overwrite(out, "experiment.json", "an external evaluation", overwrite)
    if held := [name for name in ("config.yaml", "bundle.json", "bundle/bundle.json") if (out / name).exists()]:
        raise UsageError(
            f"{out} holds a run or a bundle: {held[0]}",
            "An external evaluation has a folder of its own, because its report.html would replace that of the run",
            f"For example, use --out {out.with_name(f'{out.name}-external')}",
        )


def evaluate_external(
    bundle: str | Path,
    external: Sequence[str | Path],
    out: Path,
    options: ExternalOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a bundle on external data; writes ``out``, with an evaluation of each data set inside.

    The drop is the metric on internal data (``internal``, or else the test metrics in the bundle) minus the metric on
    external data. A data set that cannot be evaluated is reported, and the others continue.

    Args:
        bundle: The folder of a bundle or of the run with it, or the name of a shipped bundle.
        external: Data sets of another site, scanner or modality.
        out: The output folder.
        options: The options; None for the defaults.
        progress: Receives the progress.

    Returns:
        The contents of ``experiment.json``. Its table ``drop`` has a row for each data set and metric: ``internal``,
        ``external``, ``drop``, and whether it is ``flagged`` (more than ten points).

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If external data is missing, a mapped label is in no data set or has an unknown class, or a data set lacks
            a subgroup column.
        StorageError: If the results cannot be written.
    """
    options, progress = options or ExternalOptions(), progress or SilentProgress()
    loaded = Bundle.load(bundle)
    loaded.labels.require_exclusive("reslink external", "Evaluate the model on each data set with reslink evaluate")
    if not external:
        raise UsageError(
            "No external data was given", "External data is of another site or scanner", "Name at least one data set"
        )
    evaluator = DatasetEvaluator(loaded, out, out / "cache", options.max_images, options.device, options.seed, progress)
    manifests = _open_manifests(external, loaded, options)
    internal = None
    if options.internal is not None:
        manifest = Manifest.open(
            options.internal, labels=loaded.labels, columns=options.columns, root=options.root, unit=options.unit
        )
        internal = evaluator.evaluate("internal", manifest)
    evaluations = [
        evaluator.evaluate(name, opened, options.by)
        if isinstance(opened, Manifest)
        else DatasetEvaluation(name, failure=opened)
        for name, opened in manifests
    ]
    if internal is not None and internal.failure:
        progress.message(f"The internal data could not be evaluated: {internal.failure}")
    return make_report(loaded, internal, evaluations, options.label_map).write(out)


def _open_manifests(
    external: Sequence[str | Path], bundle: Bundle, options: ExternalOptions
) -> list[tuple[str, Manifest | str]]:
    """Opens the data sets under distinct names; for one that cannot be used, the reason replaces the manifest."""
    for label, name in options.label_map.items():
        if name is not None and name not in bundle.labels.names:
            raise UsageError(
                f"The label {label!r} is mapped to {name!r}, which is not a class of the bundle",
                f"Its classes are {', '.join(bundle.labels.names)}",
                suggest(name, bundle.labels.names),
            )
    names = data_set_names(external, taken=["internal", "cache"])
    manifests: list[tuple[str, Manifest | str]] = []
    for name, data in zip(names, external, strict=True):
        rename = map_of_set(options.label_map, name, names)
        try:
            manifest = Manifest.open(
                data, labels=bundle.labels, rename=rename, columns=options.columns, root=options.root, unit=options.unit
            )
        except ReslinkError as error:
            manifests.append((name, str(error)))
            continue
        manifests.append((name, manifest))
    _check_labels_used(options.label_map, manifests)
    for name, opened in manifests:
        if isinstance(opened, Manifest):
            _check_columns(name, opened, options.by)
    return manifests


def _check_labels_used(label_map: LabelMap, manifests: Sequence[tuple[str, Manifest | str]]) -> None:
    """Refuses a mapped label that no data set has; excluded labels leave no trace in a manifest and are not checked."""
    labels = {
        name: set() if isinstance(opened, str) else {case.extra["given_label"] for case in opened.cases}
        for name, opened in manifests
    }
    check_label_map({label: name for label, name in label_map.items() if name is not None}, labels)


def _check_columns(name: str, manifest: Manifest, columns: Sequence[str]) -> None:
    """Checks the chosen subgroup columns of a data set, and names it in the error."""
    try:
        check_columns(manifest, columns)
    except UsageError as error:
        raise UsageError(f"{name}: {error.given}", error.allowed, error.next_step) from error
