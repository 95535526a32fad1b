"""Evaluation of one data set from outside: metrics, acquisition features, excluded cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_and_predict
from reslink.evaluation.subgroup_columns import describing_columns
from reslink.experiments.external.acquisition import Acquisition, measure_acquisitions
from reslink.experiments.external.local_patients import LocalFit, fit_to_local_patients
from reslink.experiments.sampling import exclude_training_cases, sample_cases
from reslink.reports.run.page import evaluation_report
from reslink.training.monitoring.progress import Progress

MEASURED_IMAGES = 300
"""Number of images of a data set whose acquisition is measured, sampled at random."""


@dataclass(frozen=True)
class DatasetEvaluation:
    """The evaluation of one data set.

    Attributes:
        name: Name of the data set.
        evaluation: Contents of ``evaluation.json``; empty after a failure.
        acquisitions: Acquisition features of a sample of its images.
        local_fits: The model after refitting to a few of its patients.
        excluded: Its images that are in the training data, with the reason.
        failure: The reason of a failure.
    """

    name: str
    evaluation: dict[str, Any] = field(default_factory=dict)
    acquisitions: Sequence[Acquisition] = ()
    local_fits: Sequence[LocalFit] = ()
    excluded: Sequence[Mapping[str, str]] = ()
    failure: str | None = None


@dataclass(frozen=True)
class DatasetEvaluator:
    """Evaluates data sets with the same bundle and options.

    Attributes:
        bundle: The bundle.
        folder: Output folder; each data set has a folder inside.
        cache: Folder of decoded images.
        max_images: Maximum number of images per data set; None takes all.
        device: See :func:`reslink.inference.devices.pick_device`.
        seed: Seed of the sample and the bootstrap.
        progress: Receives the progress.
    """

    bundle: Bundle
    folder: Path
    cache: Path
    max_images: int | None
    device: str
    seed: int
    progress: Progress

    def evaluate(self, name: str, manifest: Manifest, by: Sequence[str] = ()) -> DatasetEvaluation:
        """Evaluates a data set; a failure is part of the result.

        Args:
            name: Name of the data set.
            manifest: The data set.
            by: Subgroup columns, next to :func:`describing_columns`.
        """
        excluded: list[dict[str, str]] = []
        try:
            new_cases, excluded = exclude_training_cases(manifest, self.bundle)
            selected = sample_cases(new_cases, self.max_images, self.seed)
            renamed = any("given_label" in case.extra for case in selected.cases)
            columns = [*describing_columns(selected.cases), *by]
            self.progress.message(f"Evaluating {len(selected)} images of {name}")
            evaluation, cases = evaluate_and_predict(
                self.bundle,
                selected,
                self.folder / name,
                EvaluationOptions(
                    device=self.device,
                    subgroup_columns=tuple(dict.fromkeys([*(["given_label"] if renamed else []), *columns])),
                    localization=False,
                    cache_folder=self.cache,
                    seed=self.seed,
                    data_name=name,
                ),
            )
            evaluation_report(self.folder / name)
            fits = fit_to_local_patients(cases.in_scope(), self.bundle.decision, self.bundle.labels, self.seed)
            measured = sample_cases(selected, MEASURED_IMAGES, self.seed)
            acquisitions = measure_acquisitions(measured, self.bundle.preprocess, self.progress)
        except ReslinkError as error:
            return DatasetEvaluation(name, excluded=excluded, failure=str(error))
        return DatasetEvaluation(name, evaluation, acquisitions, fits, excluded)
