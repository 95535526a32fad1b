"""Cases that are series beside a slice model: area under the ROC curve per patient, out of fold.

A patient is one case: a NIfTI volume of its slices, in order, with the label "any hemorrhage". Two models are trained on the
same patients in each of five folds: one of series (``trainer.case: series``) with the label of the patient, and one of slices
with the labels of the slices. The slice model answers for a patient by the maximum, by the mean, or by the mean of the three
highest of the probabilities of all its slices.

    python benchmarks/series.py DATA... --out OUT [--init BUNDLE] [--folds 5] [--size 96]

Each DATA holds ``manifest.csv`` with the columns ``path,label,patient_id,slice``, and has a folder name of its own. OUT gets
the volumes and the result, ``series.json``. AUROC is measured on the patients of each data set that has both classes. Of
another the sensitivity is given, at the threshold above which a tenth of the negative patients of the other sets are
(specificity 0.9). BUNDLE has the default network, and no patient of DATA was in its training.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from reslink.datasets.manifest import Manifest
from reslink.evaluation.cases import run_network
from reslink.inference.classifier import Classifier
from reslink.labels import CaseKind
from reslink.metrics.intervals import GroupBootstrap, bootstrap_interval
from reslink.training.data import TrainingData, assign_splits, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import load_recipe
from reslink.training.trainer import train

Scores = dict[str, float]
Row = dict[str, Any]
NEGATIVE, POSITIVE = "Healthy", "Tumor"
SPECIFICITY = 0.9


def assemble(data: list[Path], out: Path, folds: int) -> tuple[Path, Path]:
    """Writes a volume for each patient, and tables of series and of slices with the same folds; returns the tables."""
    from sklearn.model_selection import StratifiedKFold

    by_patient: dict[str, list[dict[str, str]]] = defaultdict(list)
    source: dict[str, str] = {}
    for folder in data:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                patient = f"{folder.name}/{row['patient_id']}"  # two data sets may have the same identifier
                by_patient[patient].append({**row, "path": str(folder / row["path"])})
                source[patient] = folder.name
    patients = sorted(by_patient)
    positive = [any(row["label"] == POSITIVE for row in by_patient[patient]) for patient in patients]
    strata = [f"{source[patient]} {has_bleed}" for patient, has_bleed in zip(patients, positive, strict=True)]
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    fold_of = {patients[i]: k for k, (_, test) in enumerate(splitter.split(patients, strata)) for i in test}
    for folder in data:
        (out / "volumes" / folder.name).mkdir(parents=True, exist_ok=True)
    series, slices = [], []
    for patient, has_bleed in zip(patients, positive, strict=True):
        rows = sorted(by_patient[patient], key=lambda row: int(row["slice"]))
        planes = _stack([np.asarray(Image.open(row["path"]).convert("L")) for row in rows])
        volume: Any = nibabel.Nifti1Image(np.ascontiguousarray(planes.transpose(2, 1, 0)[::-1, ::-1]), np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(volume, out / "volumes" / f"{patient}.nii.gz")
        label, fold = POSITIVE if has_bleed else NEGATIVE, fold_of[patient]
        series.append([f"volumes/{patient}.nii.gz", label, patient, source[patient], "gray", fold])
        slices += [[row["path"], row["label"], patient, source[patient], "gray", fold] for row in rows]
    for name, table in (("series.csv", series), ("slices.csv", slices)):
        with (out / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["path", "label", "patient_id", "source", "unit", "fold"], *table])
    return out / "series.csv", out / "slices.csv"


def _stack(planes: list[np.ndarray]) -> np.ndarray:
    """Returns the slices of a patient as (n, H, W), smaller ones with black borders."""
    shape = np.max([plane.shape for plane in planes], axis=0)
    return np.stack(
        [np.pad(plane, [(0, whole - own) for whole, own in zip(shape, plane.shape, strict=True)]) for plane in planes]
    )


def out_of_fold(table: Path, out: Path, case: CaseKind, settings: list[str], folds: Iterable[int]) -> list[Row]:
    """Trains a model per fold on the same opened images; returns patient, label and score of each test case.

    A finished fold is read from ``CASE-FOLD.json``.
    """
    rows: list[Row] = []
    data: TrainingData | None = None
    for fold in folds:
        result = out / f"{case}-{fold}.json"
        if not result.exists():
            recipe = load_recipe(None, [*settings, f"trainer.case={case}", f"data.fold={fold}"])
            if data is None:
                data = open_training_data(Manifest.open(table, case=case), recipe, out / "cache", SilentProgress())
            split = replace(data, splits=assign_splits(data.manifest, data.joined_groups, recipe))
            run = train(data.manifest, recipe, out / f"{case}-{fold}", overwrite=True, training_data=split)
            result.write_text(json.dumps(_score(Classifier.load(run.bundle, "cpu", "torch"), split)))
            print(f"{case} fold {fold}: {run.validation}", flush=True)
        rows += json.loads(result.read_text())
    return rows


def _score(classifier: Classifier, data: TrainingData) -> list[Row]:
    cases, outputs, _ = run_network(classifier, data.cache, data.indices("test"), 32)
    probabilities = classifier.bundle.decision.probabilities(outputs.logits)[:, 1]
    chosen = [data.manifest.cases[i] for i in cases]
    return [
        {
            "patient": case.patient_id,
            "source": case.source,
            "name": case.name,
            "positive": case.label == POSITIVE,
            "score": float(score),
        }
        for case, score in zip(chosen, probabilities, strict=True)
    ]


def slice_scores(rows: list[Row]) -> dict[str, Scores]:
    """Returns rules that combine slices to the scores of patients."""
    by_patient: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_patient[row["patient"]].append(row["score"])
    return {
        "slice model, maximum": {patient: max(values) for patient, values in by_patient.items()},
        "slice model, mean": {patient: float(np.mean(values)) for patient, values in by_patient.items()},
        "slice model, mean of the 3 highest": {p: float(np.mean(sorted(values)[-3:])) for p, values in by_patient.items()},
    }


def compare(scores: dict[str, Scores], positive: dict[str, bool], first: str, draws: int = 2000) -> dict[str, Any]:
    """Returns the AUROC of each rule and its difference to the first, with 95 % intervals over patients (bootstrap)."""
    patients = sorted(positive)
    y_true = np.array([positive[patient] for patient in patients])
    bootstrap = GroupBootstrap(patients, draws, 0)
    values = {name: np.array([rule[patient] for patient in patients]) for name, rule in scores.items()}

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        own = {name: np.array([_auroc(y_true, value, row) for row in weights]) for name, value in values.items()}
        return own | {f"{first} minus {name}": own[first] - one for name, one in own.items() if name != first}

    estimates = statistics(np.ones((1, len(patients))))
    drawn, n = bootstrap.apply(statistics), len(patients)
    return {
        name: bootstrap_interval(float(value[0]), drawn[name], n, n, limits=(-1.0, 1.0)).as_dict()
        for name, value in estimates.items()
    }


def sensitivity_elsewhere(scores: dict[str, Scores], sources: dict[str, str], positive: dict[str, bool]) -> dict[str, Any]:
    """Returns, for each data set without negative patients, the sensitivity of each rule at ``SPECIFICITY`` in the others."""
    negatives = [patient for patient, has_bleed in positive.items() if not has_bleed]
    alone = sorted(set(sources.values()) - {sources[patient] for patient in negatives})
    result: dict[str, Any] = {}
    for source in alone:
        patients = [patient for patient in positive if sources[patient] == source]
        result[source] = {"patients": len(patients)}
        for name, rule in scores.items():
            threshold = np.quantile([rule[patient] for patient in negatives], SPECIFICITY, method="higher")
            result[source][name] = sum(rule[patient] > threshold for patient in patients) / len(patients)
    return result


def _auroc(y_true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> float:
    return float(roc_auc_score(y_true, score, sample_weight=weights)) if len(set(y_true[weights > 0])) == 2 else np.nan


def recipes(size: int, folds: int, epochs: tuple[int, int], init: Path | None) -> tuple[list[str], list[str]]:
    """Returns the settings of the series model and of the slice model."""
    series_epochs, slice_epochs = epochs
    # Near duplicates of two patients are few and stay in their folds: both models see the same patients.
    common = [f"preprocess.size={size}", f"data.folds={folds}", "data.allow_leakage=true", "data.allow_conflicts=true"]
    common += ["trainer.device=cpu", "trainer.workers=0", "diagnostics.enabled=false"]
    common += [f"init.parent={init}"] if init else []
    of_series = [f"trainer.epochs={series_epochs}", "trainer.batch_size=4", "trainer.slices=12"]
    return [*common, *of_series], [*common, f"trainer.epochs={slice_epochs}"]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="Bundle that both models start from.")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, nargs=2, default=(40, 5), help="Epochs of the series and of the slice model.")
    options = parser.parse_args(args)
    if len({folder.name for folder in options.data}) < len(options.data):
        parser.error("two of DATA have the same folder name. The result names each data set by it. Rename one of them")
    series, slices = assemble(options.data, options.out, options.folds)
    with series.open(newline="", encoding="utf-8") as stream:
        if all(row["label"] == POSITIVE for row in csv.DictReader(stream)):
            parser.error(
                "every patient of DATA is positive. The threshold of the sensitivity needs negative patients. "
                "Add a data set that has some"
            )
    of_series, of_slices = recipes(options.size, options.folds, tuple(options.epochs), options.init)
    pooled = out_of_fold(series, options.out, "series", of_series, range(options.folds))
    positive = {row["patient"]: row["positive"] for row in pooled}
    sources = {row["patient"]: row["source"] for row in pooled}
    scores = {"series model": {row["patient"]: row["score"] for row in pooled}}
    scores |= slice_scores(out_of_fold(slices, options.out, "slice", of_slices, range(options.folds)))
    result: dict[str, Any] = {
        "slices": sum(1 for _ in slices.open(encoding="utf-8")) - 1,
        "recipe": {"series": of_series, "slice": of_slices},
        "sensitivity": sensitivity_elsewhere(scores, sources, positive),
        "auroc": {},
    }
    for source in sorted(set(sources.values()) - set(result["sensitivity"])):
        own = {patient: has_bleed for patient, has_bleed in positive.items() if sources[patient] == source}
        counts = {"patients": len(own), "positive": sum(own.values())}
        result["auroc"][source] = counts | {"rules": compare(scores, own, "series model")}
    (options.out / "series.json").write_text(json.dumps(result, indent=2))
    print(json.dumps({"auroc": result["auroc"], "sensitivity": result["sensitivity"]}, indent=2))


if __name__ == "__main__":
    main()
