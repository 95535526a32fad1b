"""Cross-validation on toy heads: folds, out-of-fold predictions, the ensemble and the distilled network."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reslink
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.datasets.manifest import Manifest
from reslink.errors import CheckFailedError, UsageError
from reslink.experiments.cross_validation import tables
from reslink.experiments.cross_validation.cross_validation import _write_csv, cross_validate, predict_rows
from reslink.experiments.cross_validation.distillation import distillation_trial
from reslink.experiments.cross_validation.ensemble import calibrated_decision, check_members, merged_data
from reslink.experiments.cross_validation.folds import OutOfFold, plan_folds, pool
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialPredictions, read_results
from reslink.experiments.runner.run_trial import make_training_data
from reslink.imaging.image import Stated
from reslink.labels import Labels

MakeExperiment = Callable[..., Experiment]
FOLDS = ("data.folds=3", "data.holdout=0.25")


@dataclass(frozen=True)
class Made:
    """A finished cross-validation."""

    experiment: Experiment
    report: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.experiment.out

    def rows(self, name: str) -> list[dict[str, Any]]:
        return next(table["rows"] for table in self.report["tables"] if table["name"] == name)

    def csv(self, name: str) -> list[dict[str, str]]:
        with (self.out / name).open(newline="") as stream:
            return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def made(toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path_factory: pytest.TempPathFactory) -> Made:
    experiment = make_experiment(toy_patients, *FOLDS, out=tmp_path_factory.mktemp("cv"), seeds=(0, 1))
    return Made(experiment, cross_validate(experiment, distill=True))


def test_every_seed_has_the_same_folds_and_hold_out(made: Made) -> None:
    plan, trials = plan_folds(made.experiment)
    assert {(trial.condition, trial.seed) for trial in trials} == {(f"fold {k}", s) for k in range(3) for s in (0, 1)}
    for trial in trials:
        assert trial.splits == plan.splits[int(trial.condition[-1])]
    assert len(plan.holdout_rows) == 24
    assert sorted([*plan.fold_rows, *plan.holdout_rows]) == list(range(96))
    assert {plan.splits[k][row] for k in range(3) for row in plan.holdout_rows} == {"holdout"}


def test_each_case_is_predicted_by_the_networks_of_its_fold(made: Made) -> None:
    experiment = made.experiment
    plan, trials = plan_folds(experiment)
    pooled = pool(plan, read_results(trials, experiment.data, experiment.runs, {}), experiment)
    assert pooled is not None
    for trial in trials:
        bundle = Bundle.load(trial.folder(experiment.data, experiment.runs) / "bundle")
        rows = np.flatnonzero(np.array(trial.splits) == "test")
        expected = predict_rows(bundle, make_training_data(trial, experiment.data, experiment.cache), rows).y_prob
        own = pooled.y_prob[trial.seed][np.isin(pooled.rows, rows)]
        np.testing.assert_allclose(own, expected, atol=1e-6)
    table = {row["sample_id"]: float(row["p_Tumor"]) for row in made.csv("out_of_fold.csv")}
    names = [experiment.cache.manifest.cases[row].name for row in pooled.rows]
    np.testing.assert_allclose([table[name] for name in names], pooled.y_prob.mean(axis=0)[:, 1])
    assert len(table) == 72


def test_pooled_metrics_are_those_of_the_table_of_predictions(made: Made) -> None:
    from sklearn.metrics import roc_auc_score

    table = made.csv("out_of_fold.csv")
    averaged, *by_seed = made.rows("out-of-fold")
    assert [row["title"] for row in (averaged, *by_seed)] == ["mean of 2 seeds", "seed 0", "seed 1"]
    truth, scores = [row["label"] == "Tumor" for row in table], [float(row["p_Tumor"]) for row in table]
    assert averaged["auroc"]["estimate"] == pytest.approx(roc_auc_score(truth, scores))
    right = np.mean([row["label"] == row["prediction"] for row in table])
    assert averaged["accuracy"]["estimate"] == pytest.approx(right)
    assert averaged["accuracy"]["n"] == 72
    assert len(made.rows("folds")) == 6
    assert any("Out of fold, 72 images in 36 groups" in sentence for sentence in made.report["answer"])


def test_the_ensemble_averages_its_members(made: Made) -> None:
    experiment = made.experiment
    plan, trials = plan_folds(experiment)
    ensemble = Bundle.load(made.out / "bundle")
    assert ensemble.architecture["count"] == 6
    assert ensemble.decision.fitted_on is not None
    assert "can be too cautious" in ensemble.decision.fitted_on.caveat
    assert "can be too cautious" in (made.out / "bundle" / "MODEL_CARD.md").read_text()
    data = make_training_data(trials[0], experiment.data, experiment.cache)
    members = [Bundle.load(trial.folder(experiment.data, experiment.runs) / "bundle") for trial in trials]
    each = [predict_rows(member, data, plan.holdout_rows).y_prob for member in members]
    plain = replace(ensemble, decision=Decision())
    np.testing.assert_allclose(predict_rows(plain, data, plan.holdout_rows).y_prob, np.mean(each, axis=0), atol=1e-5)
    listed = {row["weights_sha256"] for row in ensemble.provenance["cross_validation"]["members"]}
    assert listed == {member.weights_sha256 for member in members}


def test_no_member_saw_the_hold_out_and_every_fold_counts_as_seen(made: Made, tmp_path: Path) -> None:
    for model in ("bundle", "distilled"):
        result = reslink.evaluate(made.out / model, made.out / "split.csv", tmp_path / f"{model}-holdout", split="test")
        assert (result["n"], result["leakage"]["status"]) == (24, "none found")
        with pytest.raises(CheckFailedError, match="All 72 images overlap with the training data"):
            reslink.evaluate(made.out / model, made.out / "split.csv", tmp_path / f"{model}-folds", split="train")
    stored = json.loads((made.out / "holdout" / "evaluation.json").read_text())
    assert Bundle.load(made.out / "bundle").metrics["n"] == stored["n"] == 24


def test_the_models_are_compared_on_the_hold_out(made: Made) -> None:
    single, ensemble, distilled = made.rows("hold-out")
    assert [row["networks"] for row in (single, ensemble, distilled)] == [1, 6, 1]
    assert ensemble["accuracy"]["estimate"] == pytest.approx(
        json.loads((made.out / "holdout" / "evaluation.json").read_text())["metrics"]["accuracy"]["estimate"]
    )
    difference = ensemble["auroc"]["estimate"] - single["auroc"]["estimate"]
    assert ensemble["auroc_difference"]["estimate"] == pytest.approx(difference)
    assert single["auroc_difference"] is None
    accuracy = f"accuracy {ensemble['accuracy']['estimate']:.3f} ("
    answer = made.report["answer"]
    assert any(f"24 images in 12 groups, the calibrated ensemble: {accuracy}" in sentence for sentence in answer)
    for metric in ("accuracy", "AUROC"):  # with its interval, or the reason why there is none
        assert any(f"the calibrated ensemble compared with a single network, {metric}: " in sentence for sentence in answer)
    assert "Models on the hold-out" in (made.out / "report.html").read_text()


def test_the_distilled_network_learns_out_of_fold_probabilities(made: Made) -> None:
    experiment = made.experiment
    plan, trials = plan_folds(experiment)
    pooled = pool(plan, read_results(trials, experiment.data, experiment.runs, {}), experiment)
    assert pooled is not None
    trial = distillation_trial(experiment, plan, pooled)
    assert trial.soft_targets is not None
    labels = np.eye(2)[pooled.y_true]
    np.testing.assert_allclose(np.array(trial.soft_targets)[pooled.rows], 0.5 * labels + 0.5 * pooled.mean)
    splits = np.array(trial.splits)
    assert set(splits[plan.holdout_rows]) == {"test"}
    assert set(splits[plan.fold_rows]) == {"train", "validation"}
    assert trial.is_complete(trial.folder(experiment.data, experiment.runs))
    assert replace(trial, soft_targets=None).key(experiment.data) != trial.key(experiment.data)
    assert "0.5 out-of-fold" in Bundle.load(made.out / "distilled").provenance["distilled"]


def test_a_class_that_an_ensemble_never_predicts_is_named() -> None:
    y_true = np.array([0, 0, 0, 1, 1])
    own = TrialPredictions([*"abcde"], [*"abcde"], y_true, np.eye(2)[y_true], np.zeros(5, np.int64))
    labels = Labels(("Healthy", "Tumor"))
    right = replace(own, y_pred=y_true)
    [sentence] = tables.never_predicted_sentences({"single": [own], "ensemble": [own], "distilled": [right]}, labels)
    assert "the calibrated ensemble never predicts Tumor (2 of 5 images): its sensitivity for it is 0" in sentence
    assert "decision.threshold=youden" in sentence
    assert tables.never_predicted_sentences({"ensemble": [right]}, labels) == []


def test_each_source_has_its_own_out_of_fold_metrics() -> None:
    y_true, y_pred = np.array([0, 1, 0, 1, 0, 1]), np.array([[0, 1, 0, 1, 1, 0]])
    pooled = OutOfFold(np.arange(10, 16), np.arange(6), [*"aabbcd"], y_true, np.eye(2)[y_pred], y_pred)
    labels, sources = Labels(("Healthy", "Tumor")), ["north"] * 4 + ["south"] * 2
    table = tables.sources_table(pooled, sources, labels, 0.5)
    assert table is not None
    assert [(row["title"], row["images"], row["groups"]) for row in table.rows] == [("north", 4, 2), ("south", 2, 2)]
    assert [row["accuracy"]["estimate"] for row in table.rows] == [1, 0]
    assert tables.sources_table(pooled, ["north"] * 5 + [""], labels, 0.5) is None


def test_refused_images_are_training_images_of_the_models_and_keep_their_fold(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case of fold 0, which selects the epoch of the distilled network, one of fold 1, and one of the hold-out."""
    whole, _ = plan_folds(make_experiment(toy_patients, *FOLDS, out=tmp_path))
    folds = whole.fold_of_case
    validation, training, held_out = refused = [folds.index(0), folds.index(1), int(whole.holdout_rows[0])]
    experiment = make_experiment(toy_patients, *FOLDS, out=tmp_path)
    stated = list(experiment.cache.case_stated)
    for row in refused:
        stated[row] = stated[row]._replace(excluded="a localizer")
    monkeypatch.setattr("reslink.datasets.cache.pixel_cache.PixelCache.case_stated", stated)
    plan, trials = plan_folds(experiment)
    assert plan.fold_of_case == folds
    assert not set(refused) & {*plan.fold_rows.tolist(), *plan.holdout_rows.tolist()}
    assert len(plan.fold_rows) == len(whole.fold_rows) - 2
    data = merged_data(make_training_data(trials[0], experiment.data, experiment.cache), plan)
    assert [data.splits[row] for row in refused] == ["train", "train", "holdout"]

    n = len(plan.fold_rows)
    pooled = OutOfFold(
        rows=plan.fold_rows,
        fold=np.array([folds[row] for row in plan.fold_rows]),
        groups=[experiment.data.groups[row] for row in plan.fold_rows],
        y_true=experiment.cache.targets[plan.fold_rows],
        y_prob=np.full((1, n, 2), 0.5),
        y_pred=np.zeros((1, n), np.int64),
    )
    distilled = distillation_trial(experiment, plan, pooled)
    assert [distilled.splits[row] for row in (validation, training, held_out)] == ["unused", "train", "unused"]
    _write_csv(experiment, plan, pooled)
    read = Manifest.open(tmp_path / "split.csv")
    assert [case.extra["fold"] for case in read.cases] == ["" if fold is None else str(fold) for fold in folds]
    assert [case.split for case in read.cases] == ["test" if fold is None else "train" for fold in folds]


def test_the_ensemble_is_calibrated_without_the_slices_that_it_refuses(
    toy_patients: Manifest, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Every fourth slice shows little brain; the networks are sure there, and wrong."""
    experiment = make_experiment(toy_patients, *FOLDS)
    monkeypatch.setitem(vars(experiment.cache), "stated", (Stated("CT"),) * 96)
    rows = plan_folds(experiment)[0].fold_rows
    refused, y_true = np.arange(len(rows)) % 4 == 0, experiment.cache.targets[rows]
    of_truth = np.where(refused, 0.01, rng.uniform(0.3, 1, len(rows)))

    def calibrated(part: Any) -> tuple[Decision, list[str]]:
        groups = [experiment.data.groups[row] for row in rows[part]]
        tumor = np.where(y_true == 1, of_truth, 1 - of_truth)[part]
        y_prob = np.stack([1 - tumor, tumor], axis=1)[None]
        shares = np.where(refused[part], 0.1, 0.5)
        monkeypatch.setattr("reslink.bundles.scope.brain_share", lambda _: shares)
        predicted = np.argmax(y_prob, axis=2)
        return calibrated_decision(
            experiment, OutOfFold(rows[part], np.zeros(len(tumor), np.int64), groups, y_true[part], y_prob, predicted)
        )

    (found, notes), (expected, others) = calibrated(refused | True), calibrated(~refused)
    assert notes == [f"The decision is fitted without {refused.sum()} images that the model refuses.", *others]
    assert found.conformal is not None
    assert found.fitted_on is not None
    assert found.fitted_on.n_images == sum(found.fitted_on.counts.values()) == len(rows) - refused.sum()
    assert (found.temperature, found.conformal, found.ood) == (expected.temperature, expected.conformal, expected.ood)


def test_a_second_call_trains_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.experiments.runner import run_trial

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("this trial is already complete")

    monkeypatch.setattr(run_trial, "train", train)
    before = (made.out / "bundle" / "model.safetensors").read_bytes()
    again = cross_validate(made.experiment, distill=True)
    assert again["tables"] == made.report["tables"]
    assert (made.out / "bundle" / "model.safetensors").read_bytes() == before


def test_too_many_folds_are_refused(make_experiment: MakeExperiment, toy_patients: Manifest) -> None:
    with pytest.raises(UsageError, match="The class 'Healthy' has 24 independent groups"):
        cross_validate(make_experiment(toy_patients, "data.folds=25"))
    with pytest.raises(UsageError, match="Cross-validation needs at least 3 folds"):
        cross_validate(make_experiment(toy_patients))


def test_without_a_fold_there_is_no_ensemble(
    make_experiment: MakeExperiment, toy_patients: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reslink.errors import TrainingError
    from reslink.experiments.runner import run_trial

    def train(*_: Any, **__: Any) -> None:
        raise TrainingError("The disk is gone", "A disk is there", "Insert one")

    monkeypatch.setattr(run_trial, "train", train)
    report = cross_validate(make_experiment(toy_patients, "data.folds=3", out=tmp_path))
    assert report["bundle"] is None
    assert len(report["failed"]) == 3
    assert report["answer"] == ["No seed has a result for each fold, so there is no ensemble."]


def test_members_have_to_agree(made: Made) -> None:
    experiment = made.experiment
    _, trials = plan_folds(experiment)
    first, second = (Bundle.load(trial.folder(experiment.data, experiment.runs) / "bundle") for trial in trials[:2])
    check_members([first, second])
    with pytest.raises(UsageError, match="An ensemble of 1 network"):
        check_members([first])
    other = replace(second, preprocess=second.preprocess.model_copy(update={"std": 0.5}))
    with pytest.raises(UsageError, match="Network 1 of the ensemble has another preprocessing than the first"):
        check_members([first, other])
    recipe = {**second.provenance["recipe"], "seed": 7, "trainer": {**second.provenance["recipe"]["trainer"], "epochs": 9}}
    with pytest.raises(UsageError, match=r"another recipe \(trainer.epochs was \d, is 9\)"):
        check_members([first, replace(second, provenance={**second.provenance, "recipe": recipe})])


def test_the_audit_finds_a_wrong_label_with_the_predictions(made: Made, toy_patients: Manifest) -> None:
    table = made.csv("out_of_fold.csv")
    certain = max(
        table, key=lambda row: max(float(row["p_Tumor"]), float(row["p_Healthy"])) * (row["label"] == row["prediction"])
    )
    wrong = {"Tumor": "Healthy", "Healthy": "Tumor"}[certain["label"]]
    cases = tuple(replace(case, label=wrong) if case.name == certain["sample_id"] else case for case in toy_patients.cases)
    result = reslink.audit(replace(toy_patients, cases=cases), predictions=made.out / "out_of_fold.csv", workers=0)
    assert result["label_error_source"] == "given predictions for 72 of 96 images"
    first = result["suspected_label_errors"][0]
    assert (first["path"], first["given"]) == (certain["sample_id"], wrong)
    predicted = {row["sample_id"] for row in table}
    assert {error["path"] for error in result["suspected_label_errors"]} <= predicted
