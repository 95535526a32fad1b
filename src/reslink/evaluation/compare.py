"""Several classifiers on the same cases: differences with intervals, DeLong's and McNemar's test, Holm's correction."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles import zoo
from reslink.datasets.manifest import Manifest
from reslink.errors import GateError, InputError, UsageError
from reslink.evaluation.evaluate import evaluate_bundle
from reslink.evaluation.leakage import ALLOWED, mark_all
from reslink.labels import Labels
from reslink.metrics.classification import estimates
from reslink.metrics.comparison import PairedTest, delong_test, holm, mcnemar
from reslink.metrics.differences import Answers, differences
from reslink.training.monitoring.progress import Progress, Silent

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What one classifier said, as ``reslink evaluate`` wrote it.

    Attributes:
        name: What it is called here.
        evaluation: ``evaluation.json``.
        rows: The rows of ``predictions.csv`` by case name.
    """

    name: str
    evaluation: dict[str, Any]
    rows: dict[str, dict[str, str]]

    @classmethod
    def read(cls, name: str, folder: Path) -> Judgement:
        """Reads a folder that ``reslink evaluate`` wrote.

        Raises:
            InputError: If a file is missing or broken.
        """
        try:
            evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
                rows = {row["sample_id"]: row for row in csv.DictReader(stream)}
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

    def seen(self) -> dict[str, str]:
        """Returns why each case was not judged, by name; empty for one that was."""
        failed = self.evaluation.get("failed") or {}
        excluded = {case["path"]: case["reason"] for case in self.evaluation.get("excluded") or ()}
        return dict.fromkeys(self.rows, "") | failed | excluded

    def answers(self, cases: Sequence[str], labels: Labels) -> Answers:
        """Returns what it said of some cases, with the classes in the order of ``labels``."""
        chances = np.array([[float(self.rows[case][f"p_{label}"]) for label in labels.names] for case in cases])
        calls = np.array([labels.index(self.rows[case]["prediction"]) for case in cases], dtype=np.int64)
        return Answers(chances, calls)


def compare_bundles(
    bundles: Sequence[str | Path],
    manifest: Manifest,
    out: Path,
    *,
    split: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    seed: int = 0,
    allow_leakage: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judges bundles on the same data set and compares them on the cases that all of them could be judged on.

    Args:
        bundles: Two folders of bundles or more, or of the runs that hold them, or names of shipped bundles; each keeps
            its own preprocessing and threshold.
        manifest: The cases.
        out: Gets a folder with the evaluation of each bundle.
        split: As in :func:`reslink.evaluation.evaluate.evaluate_bundle`.
        device: As there.
        batch_size: As there.
        seed: Seed of the bootstrap.
        allow_leakage: As there.
        progress: Hears which bundle is judged.

    Returns:
        See :func:`compare`.

    Raises:
        UsageError: If there are fewer than two bundles, one is given twice, or their classes differ.
        ReslinkError: As :func:`reslink.evaluation.evaluate.evaluate_bundle`, and as :func:`compare`.
    """
    listener, names = progress or Silent(), names_of(bundles)
    listener.start(len(names), "Judging")
    try:
        for name, bundle in zip(names, bundles, strict=True):
            with _named(name):
                evaluate_bundle(
                    bundle,
                    manifest,
                    out / name,
                    device=device,
                    split=split,
                    explain_masks=False,
                    cache_folder=out / ".cache",
                    batch_size=batch_size,
                    seed=seed,
                    allow_leakage=allow_leakage,
                )
            listener.step()
    finally:
        listener.end()
    return compare([Judgement.read(name, out / name) for name in names], seed)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Says which of the bundles a gate refused."""
    try:
        yield
    except GateError as error:
        raise GateError(f"{name}: {error.given}", error.allowed, error.next_step) from error


def names_of(paths: Sequence[str | Path]) -> list[str]:
    """Returns a short name for each bundle: that of its run or folder, with the folders above where two are called alike.

    Raises:
        UsageError: If there are fewer than two, or one is given twice.
        BundleError: If a text is neither the name of a shipped bundle nor a path to something.
    """
    parts = [[part for part in zoo.resolve(path).resolve().parts if part != "/"] for path in paths]
    parts = [names[:-1] if names[-1:] == ["bundle"] and len(names) > 1 else names for names in parts]
    if len(parts) < 2 or len({tuple(names) for names in parts}) < len(parts):
        raise UsageError(
            f"{len(parts)} bundles were given, {len({tuple(names) for names in parts})} of them different",
            "A comparison takes two different bundles or more",
            "Name each bundle once",
        )
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["-".join(names[-depth:]) for names in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{i + 1}-{names[-1]}" for i, names in enumerate(parts)]


def compare(judged: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """Compares classifiers on the cases that all of them were judged on.

    Args:
        judged: What each said of the same data set.
        seed: Seed of the bootstrap.

    Returns:
        ``n``, ``n_groups``, ``labels``, ``positive``; ``models``: by name ``metrics`` on the common cases,
        ``bundle_sha256``, ``decision``, ``leakage`` and ``failed``; ``comparisons``: for each pair ``a``, ``b``,
        ``differences`` (each metric of a less that of b, with its interval) and ``tests`` (``figure``, ``name``,
        ``difference``, ``p_value``, ``p_holm``, ``method``, ``n``): DeLong for AUROC, exact McNemar for accuracy and,
        with two classes, sensitivity and specificity; ``p_holm`` is corrected for all tests made here; ``left_out``: for
        each case that not all were judged on, why not, by model; ``research_use_only``.

    Raises:
        UsageError: If the classes differ.
        InputError: If no case is common to all, or the true classes differ.
    """
    labels = check_labels([(one.name, one.evaluation["labels"]) for one in judged])
    cases = [name for name in judged[0].rows if all(name in one.rows for one in judged)]
    common, truth = set(cases), _truth(judged, cases, labels)
    groups = [judged[0].rows[case]["group"] for case in cases]
    answers = {one.name: one.answers(cases, labels) for one in judged}
    every = dict.fromkeys(case for one in judged for case in one.seen())
    result = {
        "n": len(cases),
        "n_groups": len(set(groups)),
        "labels": list(labels.names),
        "positive": labels.positive,
        "models": {one.name: _model(one, truth, answers[one.name], groups, labels, seed) for one in judged},
        "comparisons": _pairs(answers, truth, groups, labels, seed),
        "left_out": {
            case: {one.name: one.seen().get(case, "not judged") for one in judged if case not in one.rows}
            for case in every
            if case not in common
        },
        "research_use_only": True,
    }
    if any((one.evaluation.get("leakage") or {}).get("status") == ALLOWED for one in judged):
        mark_all(result)
    return result


def _model(one: Judgement, truth: Ints, answers: Answers, groups: Sequence[str], labels: Labels, seed: int) -> dict[str, Any]:
    metrics, _ = estimates(truth, answers.y_prob, answers.y_pred, groups, labels.names, seed)
    return {
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "bundle_sha256": one.evaluation.get("bundle_sha256"),
        "decision": one.evaluation.get("decision"),
        "leakage": one.evaluation.get("leakage"),
        "failed": one.evaluation.get("failed") or {},
    }


def _pairs(
    answers: Mapping[str, Answers], truth: Ints, groups: Sequence[str], labels: Labels, seed: int
) -> list[dict[str, Any]]:
    """Returns every pair with its differences and tests, the p-values corrected for all of them."""
    pairs = list(combinations(answers, 2))
    tests = [_tests(truth, answers[a], answers[b], groups, labels) for a, b in pairs]
    corrected = iter(holm([test.p_value for made in tests for test in made.values()]))
    found = []
    for (a, b), made in zip(pairs, tests, strict=True):
        gaps = differences(truth, answers[a], answers[b], groups, labels.names, seed)
        rows = [{"figure": key, **replace(test, p_holm=next(corrected)).as_dict()} for key, test in made.items()]
        found.append({"a": a, "b": b, "differences": {key: gap.as_dict() for key, gap in gaps.items()}, "tests": rows})
    return found


def _tests(truth: Ints, first: Answers, second: Answers, groups: Sequence[str], labels: Labels) -> dict[str, PairedTest]:
    """Returns DeLong's test of AUROC and McNemar's of accuracy and, with two classes, of sensitivity and specificity."""
    right = [one.y_pred == truth for one in (first, second)]
    parts = {"accuracy": np.ones(len(truth), dtype=bool)}
    if labels.binary:
        areas = delong_test(truth == 1, first.y_prob[:, 1], second.y_prob[:, 1], groups)
        parts |= {"sensitivity": truth == 1, "specificity": truth == 0}
    else:
        areas = delong_test(truth, first.y_prob, second.y_prob, groups)
    made = {"auroc": areas}
    for name, held in parts.items():
        within = [group for group, kept in zip(groups, held, strict=True) if kept]
        made[name] = mcnemar(right[0][held], right[1][held], within) if within else _no_case()
    return made


def _no_case() -> PairedTest:
    return PairedTest("McNemar", None, None, "no test: there is no case of the class", 0)


def check_labels(classes: Sequence[tuple[str, Sequence[str]]]) -> Labels:
    """Returns the classes that classifiers have in common.

    Args:
        classes: Name and classes of each classifier.

    Raises:
        UsageError: If they differ.
    """
    named, first = classes[0]
    for name, names in classes[1:]:
        if sorted(names) != sorted(first) or (len(first) == 2 and list(names) != list(first)):
            raise UsageError(
                f"{named} knows the classes {', '.join(first)}, {name} {', '.join(names)}",
                "Classifiers that are compared know the same classes, with the same positive one of two",
                "Compare bundles of one task",
            )
    return Labels(tuple(first))


def _truth(judged: Sequence[Judgement], cases: Sequence[str], labels: Labels) -> Ints:
    if not cases:
        raise InputError(
            "No case was judged by all of the classifiers",
            "They are compared on the cases that none of them failed on or learned from",
            "Give data that is new to all of them",
        )
    for case in cases:
        if len({one.rows[case]["label"] for one in judged}) > 1:
            raise InputError(
                f"{case} has another true class in one of the evaluations",
                "All evaluations are of the same data",
                "Evaluate again",
            )
    return np.array([labels.index(judged[0].rows[case]["label"]) for case in cases], dtype=np.int64)
