"""``reslink.adapt``: adapts a bundle to the patients of another hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from reslink.api.data_argument import Columns, Data, open_manifest
from reslink.errors import UsageError
from reslink.files import check_overwrite

if TYPE_CHECKING:
    from torch import nn

    from reslink.bundles.bundle import Bundle
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.datasets.manifest import Manifest
    from reslink.evaluation.cases import RunOptions
    from reslink.evaluation.fitting import DecisionOptions
    from reslink.evaluation.leakage import Leakage
    from reslink.inference.classifier import Classifier
    from reslink.inference.outputs import Outputs
    from reslink.networks.entry_points import Builder
    from reslink.training.monitoring.progress import Progress

Rows = NDArray[np.int64]

BATCH: int = 64
"""Most images per batch for the statistics of BatchNorm: enough patients in each, and little memory."""


def adapt(
    bundle: str | Path,
    data: Data,
    out: str | Path,
    *,
    batch_norm: bool = False,
    head: bool = False,
    seed: int = 0,
    operating_point: str = "default",
    coverage: float = 0.95,
    per_class: bool = False,
    per_source: bool = False,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    split: Literal["train", "validation", "test"] | None = None,
    batch_size: int = 32,
    network: str | Builder | nn.Module | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Adapts a bundle to labeled patients of another hospital, and writes a new bundle.

    The decision (calibration, threshold, prediction sets, out-of-distribution detector) is fitted to the local cases, as
    ``reslink calibrate`` does. With ``batch_norm`` or ``head`` the local groups (patients, with near duplicates joined) are
    divided into two halves: the first adapts the network, the second fits the decision, so that no case does both. Cases that
    overlap with the training data of the bundle are left out.

    Args:
        bundle: The name of a shipped model, or the folder of a bundle or run.
        data: The local cases: a folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or
            an opened ``Manifest``.
        out: Folder of the new bundle.
        batch_norm: Mix the statistics of BatchNorm layers with those of the local images. Their labels are not used.
        head: Fit the last dense layer to the local images, near the weights of the bundle.
        seed: Seed of the division into halves.
        operating_point: ``default`` (0.5), ``youden``, ``accuracy``, ``sensitivity=0.95``, ``specificity=0.95`` or
            ``cost=FN:FP``.
        coverage: Coverage of the prediction sets, from 0.5 to below 1.
        per_class: Hold the coverage within each class.
        per_source: Hold the coverage within each source, and weigh sources alike in calibration.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        split: Use only the cases of this split; None for all cases.
        batch_size: Number of images per batch.
        network: Your own network that the bundle was trained with, as for :func:`reslink.train`; not needed for others.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        overwrite: Replace an earlier bundle in ``out``.
        progress: Receives the progress.

    Returns:
        What ``reslink calibrate --json`` prints, about the cases that the decision was fitted to; and ``adapted``: what was
        changed in the network and with how many images and groups, as in the ``provenance`` of the bundle; None if only the
        decision was fitted.

    Raises:
        UsageError: If the bundle does not know a label, there are too few groups or a class is missing, the network has no such
            part, or ``out`` holds a bundle.
        CheckFailedError: If every case overlaps with the training data.

    Example:
        >>> import reslink
        >>> result = reslink.adapt("ct", "our-patients.csv", "ct-here", head=True)  # doctest: +SKIP
        >>> result["adapted"]["groups"]  # doctest: +SKIP
        20
    """
    check_overwrite(Path(out), "bundle.json", "a bundle", overwrite)
    from reslink.bundles import zoo
    from reslink.bundles.bundle import Bundle
    from reslink.evaluation.fitting import DecisionOptions
    from reslink.inference.devices import check_device_name
    from reslink.metrics.operating_point import OperatingPoint

    check_device_name(device)
    zoo.check_not_shipped(Path(out))
    point, parent = OperatingPoint.parse(operating_point), Bundle.load(bundle, network)
    flip = parent.decision.flip_average
    decision = DecisionOptions("temperature", point, coverage, per_class, flip_average=flip, per_source=per_source)
    options_of_data: dict[str, Any] = {"columns": columns, "root": root, "unit": unit, "case": parent.case}
    manifest = open_manifest(data, labels=parent.labels, **options_of_data)
    from reslink.datasets.several_sources import check_per_source
    from reslink.evaluation.cases import RunOptions, select_cases

    selected = select_cases(manifest, parent.labels, split)  # a typing error is found before the slow imports
    check_per_source(selected, per_source)
    options = RunOptions(split=split, device=device, batch_size=batch_size)
    if not (batch_norm or head):
        from reslink.evaluation.calibrate import calibrate_bundle

        return {**calibrate_bundle(parent, manifest, Path(out), decision, options, progress), "adapted": None}
    from reslink.training.monitoring.progress import SilentProgress

    parts = {"batch_norm": batch_norm, "head": head}
    plan = Plan(parent, Path(out), tuple(name for name, wanted in parts.items() if wanted), seed, decision)
    return _adapt_network(plan, manifest, options, progress or SilentProgress())


@dataclass(frozen=True)
class Plan:
    """What is adapted.

    Attributes:
        parent: The bundle.
        out: Folder of the new bundle.
        parts: ``batch_norm``, ``head`` or both.
        seed: Seed of the division into halves.
        decision_options: The components of the decision to fit.
    """

    parent: Bundle
    out: Path
    parts: tuple[str, ...]
    seed: int
    decision_options: DecisionOptions

    def check(self) -> None:
        """Checks that the network can be adapted.

        Raises:
            UsageError: If its cases are series, or have several labels at once.
        """
        advice = "Leave --batch-norm and --head out to fit the decision only"
        self.parent.require_slices("reslink adapt with --batch-norm or --head", advice)
        self.parent.labels.require_exclusive("reslink adapt with --batch-norm or --head", advice)


@dataclass(frozen=True)
class LocalCases:
    """The local cases that do not overlap with the training data of the parent.

    Attributes:
        cache: All decoded cases.
        rows: (n,) rows of the cases that can be used.
        groups: The group of each of these cases: patients and near duplicates joined.
        outputs: What the network of the parent returns for them.
        in_scope: (n,) whether the parent is made for the image.
        refused: Why an image is outside the scope of the parent, by case name.
        failed: Why a case could not be used, by case name.
        leaks: The cases that overlap with the training data.
    """

    cache: PixelCache
    rows: Rows
    groups: list[str]
    outputs: Outputs
    in_scope: NDArray[np.bool_]
    refused: dict[str, str]
    failed: dict[str, str]
    leaks: Leakage

    @property
    def labels(self) -> list[str]:
        """The label of each case."""
        return [self.cache.manifest.cases[row].label for row in self.rows]


def draw_halves(labels: Sequence[str], groups: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Returns for each case whether it is in the first half of the groups.

    Groups with the same classes are divided evenly, and the numbers of groups differ by one at most.

    Args:
        labels: The label of each case.
        groups: The group of each case.
        seed: Seed of the draw.
    """
    classes: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        classes.setdefault(group, set()).add(label)
    shuffled = np.random.default_rng(seed).permutation(sorted(classes)).tolist()
    first = set(sorted(shuffled, key=lambda group: sorted(classes[group]))[::2])
    return np.array([group in first for group in groups], np.bool_)


def check_halves(labels: Sequence[str], groups: Sequence[str], halves: Sequence[Rows], names: Sequence[str]) -> None:
    """Checks that both halves have enough groups and every class.

    Args:
        labels: The label of each case.
        groups: The group of each case.
        halves: The indices of the cases of each half.
        names: All classes.

    Raises:
        UsageError: With the counts of both halves.
    """
    from reslink.evaluation.fitting import MIN_GROUPS

    texts, enough = [], True
    for half in halves:
        own, n_groups = [labels[i] for i in half.tolist()], len({groups[i] for i in half.tolist()})
        texts.append(f"{n_groups} groups ({', '.join(f'{name} {own.count(name)}' for name in names)} images)")
        enough = enough and n_groups >= MIN_GROUPS and set(names) <= set(own)
    if not enough:
        raise UsageError(
            f"The local data gives {texts[0]} to adapt the network and {texts[1]} to fit the decision",
            f"Each half needs at least {MIN_GROUPS} groups (patients, with near duplicates joined) and images of every class",
            "Add local patients, or leave --batch-norm and --head out: all groups then fit the decision",
        )


def _adapt_network(plan: Plan, manifest: Manifest, options: RunOptions, progress: Progress) -> dict[str, Any]:
    """Adapts the network to the first half, and fits the decision to the second."""
    from reslink.api.onnx_model import add_onnx_model
    from reslink.bundles.bundle import Bundle
    from reslink.evaluation.calibrate import calibrate_bundle
    from reslink.evaluation.cases import pixel_cache_folder

    plan.check()
    with pixel_cache_folder(plan.out.absolute().parent, None) as folder:
        local = _local_cases(plan.parent, manifest, folder, options, progress)
        is_first = draw_halves(local.labels, local.groups, plan.seed)
        first, second = (np.flatnonzero(half & local.in_scope) for half in (is_first, ~is_first))
        check_halves(local.labels, local.groups, (first, second), plan.parent.labels.names)
        progress.message(_halves_text(local, first, second))
        second = np.flatnonzero(~is_first)  # the out-of-distribution detector takes the refused images into account
        child = _adapted_child(plan, local, first, folder / "adapted", options)
        cases = local.cache.manifest.cases
        previous = {cases[local.rows[i]].name: local.outputs.logits[i] for i in second}
        result = calibrate_bundle(
            child,
            local.cache.manifest.subset(local.rows[second].tolist()),
            plan.out,
            plan.decision_options,
            replace(options, cache_folder=folder, previous_logits=previous),
            progress,
        )
    if plan.parent.onnx_model is not None:
        add_onnx_model(Bundle.load(plan.out, plan.parent.builder))
    seen = {"failed": result["failed"] | local.failed, "refused": local.refused | result["refused"]}
    counts = {f"n_{name}": len(named) for name, named in seen.items()}
    return result | local.leaks.as_dict() | seen | counts | {"adapted": child.provenance["adapted"]}


def _local_cases(parent: Bundle, manifest: Manifest, folder: Path, options: RunOptions, progress: Progress) -> LocalCases:
    from reslink.bundles.decision.decision import Decision
    from reslink.datasets.near_duplicates.groups import leakage_groups
    from reslink.evaluation.calibrate import open_cache
    from reslink.evaluation.cases import refused_cases, run_network, select_cases
    from reslink.evaluation.leakage import find_leakage
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(parent, options.device)
    cache = open_cache(select_cases(manifest, parent.labels, options.split), classifier, folder, progress)
    groups = leakage_groups(cache.manifest, cache.thumbnails)
    uncalibrated = replace(parent, decision=Decision.default(len(parent.labels)))  # its decision is replaced
    leaks = find_leakage(uncalibrated, manifest, cache, groups, folder, options)
    progress.message(f"Running the network on {len(leaks.rows)} images")
    rows, outputs, not_finite = run_network(classifier, cache, leaks.rows, options.batch_size, statistics=True)
    results = classifier.decide(outputs, stated=[cache.case_stated[row] for row in rows])
    refused = refused_cases(classifier, results, cache.manifest.subset(rows.tolist()))
    in_scope = np.array([reason is None for reason in results.refusals], np.bool_)
    failed = dict(cache.failed) | not_finite
    return LocalCases(cache, rows, [groups[row] for row in rows], outputs, in_scope, refused, failed, leaks)


def _halves_text(local: LocalCases, first: Rows, second: Rows) -> str:
    texts = [f"{len(half)} images in {len({local.groups[i] for i in half})} groups" for half in (first, second)]
    n_leaked = len(local.leaks.reasons)
    excluded = f"{n_leaked} images overlap with the training data and are left out. " if n_leaked else ""
    return f"{excluded}{texts[0]} adapt the network, {texts[1]} fit the decision"


def _adapted_child(plan: Plan, local: LocalCases, first: Rows, folder: Path, options: RunOptions) -> Bundle:
    """Returns the bundle with the adapted network, saved to a folder; its decision is still that of the parent."""
    from reslink.datasets.leakage import fingerprint_training_images
    from reslink.inference.classifier import Classifier
    from reslink.inference.devices import pick_device
    from reslink.training.run_folder import versions

    parent, device, cache = plan.parent, pick_device(options.device), local.cache
    rows, groups = local.rows[first], [local.groups[i] for i in first]
    classifier = Classifier(parent, parent.network().to(device).requires_grad_(False), device)
    adapted = {
        "parent": parent.weights_sha256,
        "digest": cache.manifest.subset(rows.tolist()).digest(cache.file_hashes),
        "images": len(rows),
        "groups": len(set(groups)),
        "parts": list(plan.parts),
        "seed": plan.seed,
        **(_adapt_batch_norm(classifier, cache, rows, plan.seed) if "batch_norm" in plan.parts else {}),
        **(_adapt_head(classifier, local, first, options.batch_size) if "head" in plan.parts else {}),
    }
    used, is_first = cache.manifest.subset(local.rows.tolist()), set(first.tolist())
    splits = ["train" if i in is_first else "validation" for i in range(len(used))]
    kept = {key: value for key, value in parent.provenance.items() if key in ("license", "intended_use", "pretrained")}
    if "pretrained" in kept:
        kept["pretrained"] = kept["pretrained"] | {"ledger": []}  # the evaluations are those of other weights
    data = {"digest": adapted["digest"], "images": dict(cache.manifest.subset(rows.tolist()).label_counts())}
    child = replace(
        parent,
        metrics={},
        provenance={**kept, "data": data, "versions": versions(), "adapted": adapted},
        training_images=fingerprint_training_images(used, cache.thumbnails[local.rows], local.groups, splits),
        lineage=parent.lineage_of_child(),
        weights_sha256=None,
        onnx_model=None,
        folder=None,
    )
    return child.save(folder, classifier.network.state_dict())


def _adapt_batch_norm(classifier: Classifier, cache: PixelCache, rows: Rows, seed: int) -> dict[str, Any]:
    from reslink.training.adaptation import adapt_batch_norm

    mixed = np.random.default_rng(seed).permutation(rows)  # several patients in each batch
    parts = np.array_split(mixed, -(-len(mixed) // BATCH))
    batches = (cache.batch(part).numpy() for part in parts)
    weight = adapt_batch_norm(classifier.network, classifier.backend.outputs, batches, len(rows))
    return {"batch_norm_weight": weight}


def _adapt_head(classifier: Classifier, local: LocalCases, first: Rows, batch_size: int) -> dict[str, Any]:
    from reslink.evaluation.cases import run_network
    from reslink.evaluation.fitting import CalibrationData, group_folds
    from reslink.training.adaptation import adapt_head, dense_layer

    dense = dense_layer(classifier.network, len(classifier.labels))
    rows, outputs, _ = run_network(classifier, local.cache, local.rows[first], batch_size, statistics=False)
    group_of = dict(zip(local.rows.tolist(), local.groups, strict=True))
    logits, features = np.asarray(outputs.logits, np.float64), np.asarray(outputs.features, np.float64)
    y_true = np.array([classifier.labels.index(local.cache.manifest.cases[row].label) for row in rows], np.int64)
    no_statistics, groups = np.zeros((len(rows), 0)), [group_of[row] for row in rows.tolist()]
    cases = CalibrationData(logits, features, no_statistics, y_true, groups)
    fit = adapt_head(dense, features, y_true, group_folds(cases))
    return {"head_strength": fit.strength, "head_cross_entropy": dict(zip(("before", "after"), fit.cross_entropy, strict=True))}
