"""Comparison of models on the same cases: differences with intervals, DeLong and McNemar tests, Holm correction."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.errors import CheckFailedError, InputError
from reslink.evaluation.compared_models import common_labels
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.evaluation.leakage import ALLOWED, mark_estimates
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.comparison import PairedTest, delong_test, holm, mcnemar
from reslink.metrics.differences import Predictions, metric_differences
from reslink.settings_text import read_json
from reslink.training.monitoring.progress import Progress, SilentProgress, phase

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
_NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class ModelEvaluation:
    """The evaluation of one model, as ``reslink evaluate`` wrote it.

    Attributes:
        name: The name of the model in the comparison.
        evaluation: The content of ``evaluation.json``.
        rows: The rows of ``predictions.csv`` by case name.
    """

    name: str
    evaluation: dict[str, Any]
    rows: dict[str, dict[str, str]]

    @classmethod
    def read(cls, name: str, folder: Path) -> ModelEvaluation:
        """Reads a folder that ``reslink evaluate`` wrote.

        Raises:
            InputError: If a file is missing or invalid.
        """
        try:
            evaluation = read_json(folder / "evaluation.json")
            with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
                rows = {row["sample_id"]: row for row in csv.DictReader(stream) if row["prediction"] != ""}
            labels = evaluation["labels"]
            for row in rows.values():
                _ = [float(row[f"p_{label}"]) for label in labels], row["group"], row["prediction"], row["label"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} cannot be compared ({type(error).__name__}: {error})",
                "A folder written by reslink evaluate holds evaluation.json and predictions.csv",
                "Evaluate again",
            ) from error
        return cls(name, evaluation, rows)

    def exclusion_reasons(self) -> dict[str, str]:
        """Returns why each case was not evaluated, by name; empty for an evaluated case."""
        failed = (self.evaluation.get("failed") or {}) | (self.evaluation.get("refused") or {})
        excluded = {case["path"]: case["reason"] for case in self.evaluation.get("excluded") or ()}
        return dict.fromkeys(self.rows, "") | failed | excluded

    def predictions(self, cases: Sequence[str], labels: Labels) -> Predictions:
        """Returns the predictions for some cases, with the classes in the order of ``labels``."""
        y_prob = np.array([[float(self.rows[case][f"p_{label}"]) for label in labels.names] for case in cases])
        y_pred = np.array([labels.index(self.rows[case]["prediction"]) for case in cases], dtype=np.int64)
        return Predictions(y_prob, y_pred)


def compare_bundles(
    bundles: Mapping[str, str | Path | Bundle],
    manifest: Manifest,
    out: Path,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates bundles on the same data set and compares them on the cases that all of them could evaluate.

    Args:
        bundles: At least two shipped models, bundles or runs by name; each keeps its own preprocessing and threshold.
        manifest: The cases.
        out: Output folder; it gets a subfolder with the evaluation of each bundle.
        options: Options of the evaluations. Localization is never measured, and the decoded images are kept in ``out/.cache``.
        progress: Receives the progress, one step per bundle.

    Returns:
        See :func:`compare`.

    Raises:
        UsageError: If the classes differ.
        ReslinkError: As :func:`reslink.evaluation.evaluate.evaluate_bundle` and :func:`compare`.
    """
    progress = progress or SilentProgress()
    options = replace(options or EvaluationOptions(), localization=False, cache_folder=out / ".cache")
    with phase(progress, len(bundles), "Evaluating", "model"):
        for name, bundle in bundles.items():
            with _name_in_error(name):
                evaluate_bundle(bundle, manifest, out / name, options)
            progress.step()
    return compare([ModelEvaluation.read(name, out / name) for name in bundles], options.seed)


@contextlib.contextmanager
def _name_in_error(name: str) -> Iterator[None]:
    """Adds the name of the bundle to the message of a failed check."""
    try:
        yield
    except CheckFailedError as error:
        raise CheckFailedError(f"{name}: {error.given}", error.allowed, error.next_step) from error


def compare(evaluations: Sequence[ModelEvaluation], seed: int = 0) -> dict[str, Any]:
    """Compares models on the cases that all of them evaluated.

    Args:
        evaluations: The evaluation of each model on the same data set.
        seed: Seed of the bootstrap.

    Returns:
        ``n``, ``n_groups``, ``labels``, ``positive``; ``models``: by name ``metrics`` on the common cases,
        ``bundle_sha256``, ``decision``, ``leakage`` and ``failed``; ``comparisons``: for each pair ``a``, ``b``,
        ``differences`` (each metric of a minus that of b, with its interval) and ``tests`` (``metric``, ``name``,
        ``difference``, ``p_value``, ``p_holm``, ``method``, ``n``): DeLong for AUROC, exact McNemar for accuracy and,
        with two classes, sensitivity and specificity; ``p_holm`` is corrected for all tests of this comparison; ``excluded``:
        for each case that a model did not evaluate, the reason by model; ``research_use_only``.

    Raises:
        UsageError: If the classes differ.
        InputError: If the models have no common case, or the true classes differ.
    """
    for model in evaluations:
        names, exclusive = tuple(model.evaluation["labels"]), model.evaluation.get("exclusive", True)
        Labels(names, exclusive).require_exclusive("A comparison", "Read the evaluation of each model")
    labels = common_labels([(model.name, model.evaluation["labels"]) for model in evaluations])
    cases = [name for name in evaluations[0].rows if all(name in model.rows for model in evaluations)]
    y_true = _true_classes(evaluations, cases, labels)
    groups = [evaluations[0].rows[case]["group"] for case in cases]
    predictions = {model.name: model.predictions(cases, labels) for model in evaluations}
    result = {
        "n": len(cases),
        "n_groups": len(set(groups)),
        "labels": list(labels.names),
        "positive": labels.positive,
        "models": {model.name: _model(model, y_true, predictions[model.name], groups, labels, seed) for model in evaluations},
        "comparisons": _compare_pairs(predictions, y_true, groups, labels, seed),
        "excluded": _excluded(evaluations, set(cases)),
        "research_use_only": True,
    }
    if any((model.evaluation.get("leakage") or {}).get("status") == ALLOWED for model in evaluations):
        mark_estimates(result)
    return result


def _excluded(evaluations: Sequence[ModelEvaluation], common: set[str]) -> dict[str, dict[str, str]]:
    reasons = {model.name: model.exclusion_reasons() for model in evaluations}
    all_cases = dict.fromkeys(case for of_model in reasons.values() for case in of_model)
    return {
        case: {model.name: reasons[model.name].get(case, _NOT_EVALUATED) for model in evaluations if case not in model.rows}
        for case in all_cases
        if case not in common
    }


def _model(
    model: ModelEvaluation, y_true: Ints, predictions: Predictions, groups: Sequence[str], labels: Labels, seed: int
) -> dict[str, Any]:
    metrics, _ = classification_metrics(y_true, predictions.y_prob, predictions.y_pred, groups, labels.names, seed)
    return {
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "bundle_sha256": model.evaluation.get("bundle_sha256"),
        "decision": model.evaluation.get("decision"),
        "leakage": model.evaluation.get("leakage"),
        "failed": model.evaluation.get("failed") or {},
    }


def _compare_pairs(
    predictions: Mapping[str, Predictions], y_true: Ints, groups: Sequence[str], labels: Labels, seed: int
) -> list[dict[str, Any]]:
    """Returns the differences and tests of every pair; the p-values are corrected for all pairs together."""
    pairs = list(combinations(predictions, 2))
    tests = [_paired_tests(y_true, predictions[a], predictions[b], groups, labels) for a, b in pairs]
    corrected = iter(holm([test.p_value for pair_tests in tests for test in pair_tests.values()]))
    result = []
    for (a, b), pair_tests in zip(pairs, tests, strict=True):
        differences = metric_differences(y_true, predictions[a], predictions[b], groups, labels.names, seed)
        rows = [{"metric": key, **replace(test, p_holm=next(corrected)).as_dict()} for key, test in pair_tests.items()]
        result.append({"a": a, "b": b, "differences": {key: d.as_dict() for key, d in differences.items()}, "tests": rows})
    return result


def _paired_tests(
    y_true: Ints, first: Predictions, second: Predictions, groups: Sequence[str], labels: Labels
) -> dict[str, PairedTest]:
    """Returns DeLong's test for AUROC, and McNemar's for accuracy and, with two classes, sensitivity and specificity."""
    correct = [predictions.y_pred == y_true for predictions in (first, second)]
    subsets = {"accuracy": np.ones(len(y_true), dtype=bool)}
    if labels.binary:
        auroc = delong_test(y_true == 1, first.y_prob[:, 1], second.y_prob[:, 1], groups)
        subsets |= {"sensitivity": y_true == 1, "specificity": y_true == 0}
    else:
        auroc = delong_test(y_true, first.y_prob, second.y_prob, groups)
    tests = {"auroc": auroc}
    for name, subset in subsets.items():
        subset_groups = [group for group, inside in zip(groups, subset, strict=True) if inside]
        tests[name] = mcnemar(correct[0][subset], correct[1][subset], subset_groups) if subset_groups else _no_case()
    return tests


def _no_case() -> PairedTest:
    return PairedTest("McNemar", None, None, "no test: there is no case of the class", 0)


def _true_classes(evaluations: Sequence[ModelEvaluation], cases: Sequence[str], labels: Labels) -> Ints:
    if not cases:
        raise InputError(
            "No case was evaluated by all models",
            "Models are compared on cases that none of them failed on or was trained on",
            "Use data that is new to all of them",
        )
    for case in cases:
        if len({model.rows[case]["label"] for model in evaluations}) > 1:
            raise InputError(
                f"The evaluations disagree about the true class of {case}",
                "All evaluations must use the same labels",
                "Evaluate again",
            )
    return np.array([labels.index(evaluations[0].rows[case]["label"]) for case in cases], dtype=np.int64)
