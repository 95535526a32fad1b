"""The leave-one-source-out experiment on toy heads of several hospitals."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.datasets.manifest import DataSet, Manifest
from reslink.errors import UsageError
from reslink.experiments.leave_one_source_out import answers, plan, tables
from reslink.experiments.leave_one_source_out.answers import PREDICTIONS_CSV, Answers, Evaluator, TrialAnswers
from reslink.experiments.leave_one_source_out.leave_one_source_out import leave_one_source_out
from reslink.experiments.leave_one_source_out.plan import plan_sources
from reslink.experiments.leave_one_source_out.subtypes import subtype_columns
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.fitted_decision import fit_recipe_decision
from reslink.experiments.runner.results import TrialPredictions, read_results
from reslink.imaging.image import Stated

MakeExperiment = Callable[..., Experiment]
TableRows = Callable[[dict[str, Any], str], list[dict[str, Any]]]
LEARNS = ("trainer.epochs=12", "optimizer.lr=0.01", "data.fractions=[0.6,0.4,0.0]")
"""Enough validation groups for prediction sets."""


def of_sources(manifest: Manifest, sources: Sequence[str | None]) -> Manifest:
    """The patients in turn belong to each source; two images a patient, the class changes with the patient."""
    cases = [replace(case, source=sources[i // 4 % len(sources)]) for i, case in enumerate(manifest.cases)]
    return replace(manifest, cases=tuple(cases))


@pytest.fixture(scope="module")
def hospitals(toy_patients: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals. In C the labels are the other way round. An image of A is the mirror image of one of C."""
    folder = tmp_path_factory.mktemp("hospitals")
    swapped = {"Healthy": "Tumor", "Tumor": "Healthy"}
    rows = ["path,label,patient_id,source,subdural,side"]
    for case in of_sources(toy_patients, "ABC").cases:
        shutil.copy(case.path, folder)
        label = swapped[case.label] if case.source == "C" else case.label
        rows.append(f"{case.path.name},{label},{case.patient_id},{case.source},{int(label == 'Tumor')},{int(case.name[2]) % 2}")
    mirrored, label = "mirrored.png", next(row.split(",")[1] for row in rows if row.startswith("008.png"))
    Image.fromarray(np.asarray(Image.open(folder / "008.png"))[:, ::-1]).save(folder / mirrored)
    rows.append(f"{mirrored},{label},another,A,0,0")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def report(hospitals: Path, make_experiment: MakeExperiment) -> dict[str, Any]:
    return leave_one_source_out(make_experiment(Manifest.open(hospitals), *LEARNS), only=["C"])


def test_a_planted_shift_of_a_source_is_measured(report: dict[str, Any], table_rows: TableRows) -> None:
    rows = {row["measure"]: row for row in table_rows(report, "differences")}
    assert rows["auroc"]["inside"]["estimate"] > 0.8
    assert rows["auroc"]["unseen"]["estimate"] < 0.2
    assert rows["auroc"]["difference"]["estimate"] < -0.6
    assert rows["accuracy"]["unseen"]["estimate"] < 0.3
    assert rows["silent_errors"]["unseen"]["estimate"] <= rows["coverage"]["unseen"]["estimate"]
    [auroc] = [row for row in table_rows(report, "summary") if row["measure"] == "auroc"]
    assert (auroc["sources"], auroc["worst_source"]) == (1, "C")
    assert auroc["worst"] == auroc["unseen"] == rows["auroc"]["unseen"]
    assert report["answer"][0].startswith(
        f"A hospital that the model has never seen can expect AUROC {auroc['unseen']['estimate']:.3f}"
    )


def test_the_planted_near_duplicate_in_another_source_is_not_used(
    report: dict[str, Any], hospitals: Path, make_experiment: MakeExperiment, table_rows: TableRows
) -> None:
    assert report["answer"][-1].startswith("When C is held out, images that share a patient or a near duplicate")
    assert report["answer"][-1].endswith(": 1 image of A.")
    [images] = table_rows(report, "splits")
    assert (images["related"], images["test"]) == ("1 image of A", "32")
    [run] = report["runs"]
    assert run["unused_cases"] == 1
    assert run["train_cases"] + run["validation_cases"] == 64
    experiment = make_experiment(Manifest.open(hospitals), *LEARNS)
    [held_out] = plan_sources(experiment, ["C"]).sources
    [trial] = held_out.trials
    splits = {case.name: split for case, split in zip(experiment.cache.manifest.cases, trial.splits, strict=True)}
    assert splits["mirrored.png"] == "unused"
    assert {splits[case.name] for case in experiment.manifest.cases if case.source == "C"} == {"test"}
    classes = {(case.label, splits[case.name]) for case in experiment.manifest.cases}
    assert {(label, split) for label in ("Healthy", "Tumor") for split in ("train", "validation")} <= classes


def test_subtypes_have_a_sensitivity(report: dict[str, Any], table_rows: TableRows) -> None:
    """The column side is also 1 for healthy images, so it is no subtype."""
    [row] = table_rows(report, "subtypes")
    assert (row["source"], row["subtype"], row["images"]) == ("C", "subdural", 16)
    [source] = table_rows(report, "sources")
    assert row["sensitivity"]["estimate"] == source["sensitivity"]["estimate"]


def test_the_predictions_for_the_source_state_abstentions(
    report: dict[str, Any], make_experiment: MakeExperiment, hospitals: Path
) -> None:
    [run] = report["runs"]
    folder = make_experiment(Manifest.open(hospitals)).runs / run["run"]
    with (folder / PREDICTIONS_CSV).open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 32
    answered = [row for row in rows if row["abstain"] != "true"]
    assert len(answered) / 32 == pytest.approx(run["coverage"])
    assert sum(row["prediction"] != row["label"] for row in answered) / 32 == pytest.approx(run["silent_errors"])


def test_refused_slices_are_left_out_of_the_fit_and_count_as_abstentions(
    make_experiment: MakeExperiment, hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(Manifest.open(hospitals), *LEARNS, "data.fractions=[0.4,0.6,0.0]")
    sources = plan_sources(experiment, ["C"])
    trials = sources.sources[0].trials
    [result] = read_results(trials, experiment.data, experiment.runs, experiment.run_trials(trials))
    ruled = replace(Bundle.load(result.folder / "bundle"), scope=Scope(modality="CT", min_brain_share=0.25))
    monkeypatch.setitem(vars(experiment.cache), "stated", (Stated("CT"),) * len(experiment.cache))
    monkeypatch.setattr(Bundle, "load", lambda *_: ruled)
    monkeypatch.setattr("reslink.bundles.scope.brain_share", shares)
    fitted: list[int] = []

    def fit(settings: Any, cases: Any, labels: Any) -> Any:
        fitted.append(len(cases))
        return fit_recipe_decision(settings, cases, labels)

    monkeypatch.setattr(answers, "fit_recipe_decision", fit)
    found = Evaluator(experiment, sources.groups).answer(result)
    rows = np.flatnonzero(np.array(result.trial.splits) == "validation")
    little = shares(experiment.cache.pixels[rows]) < 0.25
    assert 0 < little.sum() < len(rows)
    assert fitted[0] == len(rows) - little.sum()
    assert f"The decision is fitted without {little.sum()} images that the model refuses." in found.notes
    refused = {experiment.cache.manifest.cases[row].name for row in rows[little]}
    inside = found.inside
    assert sorted(inside.predictions.names) == sorted(experiment.cache.manifest.cases[row].name for row in rows)
    assert inside.answered is not None
    assert not any(inside.answered[[name in refused for name in inside.predictions.names]])
    assert any(inside.answered)


def shares(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns a brain share that is too small for every fourth image or so."""
    sums = pixels.reshape(len(pixels), -1).sum(axis=1, dtype=np.int64)
    return np.where(sums % 4 == 0, 0.1, 0.5)


def test_similar_images_are_joined_within_a_source_only(
    toy_patients: Manifest, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With known patients only the patients are joined across sources; here every image of a source looks like another."""
    manifest = of_sources(toy_patients, "AB")
    both = replace(manifest.cases[0], source="B")  # a patient in two sources
    experiment = make_experiment(replace(manifest, cases=(both, *manifest.cases[1:])))
    ways = []

    def all_similar(part: Manifest, _: object, by: str) -> list[str]:
        ways.append(by)
        return [part.cases[0].name] * len(part)

    monkeypatch.setattr(plan, "group_cases", all_similar)
    assert len(set(plan.groups_within_sources(experiment))) == 1
    assert len(set(plan.groups_within_sources(make_experiment(manifest)))) == 2
    assert set(ways) == {"both"}
    plan.groups_within_sources(make_experiment(manifest, "data.group_by=scan"))
    assert ways[-2:] == ["scan", "scan"]


@pytest.mark.parametrize(("by", "notes"), [("both", 0), ("scan", 0), ("none", 1)])
def test_a_grouping_that_is_not_used_is_said(
    by: str, notes: int, toy_patients: Manifest, make_experiment: MakeExperiment
) -> None:
    found = plan.group_by_note(make_experiment(toy_patients, f"data.group_by={by}"))
    assert [sentence.startswith(f"data.group_by={by} is not used: ") for sentence in found] == [True] * notes


def test_the_sources_of_joined_data_sets_are_the_data_sets(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    """The data set a has two scanners; none of them stays in the training without a."""
    sets, scanners = ("a", "a", "b"), ("a: GE", "a: Siemens", "b: GE")
    turns = [i // 4 % 3 for i in range(len(toy_patients.cases))]
    cases = [
        replace(case, name=f"{sets[k]}/{case.name}", source=scanners[k])
        for case, k in zip(toy_patients.cases, turns, strict=True)
    ]
    members = tuple(DataSet(name, Path(), has_table=True) for name in "ab")
    planned = plan_sources(make_experiment(replace(toy_patients, cases=tuple(cases), sets=members)))
    assert [source.source for source in planned.sources] == ["a", "b"]
    [trial] = planned.sources[0].trials
    used = {case.source for case, split in zip(cases, trial.splits, strict=True) if split in ("train", "validation")}
    assert used == {"b: GE"}
    assert {case.source for case, split in zip(cases, trial.splits, strict=True) if split == "test"} == set(scanners[:2])


def test_without_a_common_seed_the_mean_is_not_known_and_said_so(toy_patients: Manifest) -> None:
    """Each source has a result for another seed."""
    truth = np.array([0, 1] * 4)
    predictions = TrialPredictions(list("abcdefgh"), list("abcdefgh"), truth, np.eye(2)[truth], truth)
    own = Answers(predictions, truth == 1)
    results: list[Any] = [SimpleNamespace(trial=SimpleNamespace(condition=name, seed=i)) for i, name in enumerate("AB")]
    outcomes = tables.Outcomes([], results, [TrialAnswers(own, own, 0, [])] * 2, (), toy_patients.labels)
    expected, worst, _, abstention, _ = tables.verdict(outcomes)
    assert "AUROC not known and accuracy not known" in expected
    assert "not known" not in worst
    assert abstention.startswith("How many images the model answers on average on an unseen source is not known. ")
    assert "in the worst source: 0.0 % of all images" in abstention
    [note] = tables.no_mean_note(outcomes)
    assert note.startswith("Mean over the sources: no seed has a result for each of them (AUROC, ")
    common = tables.Outcomes([], results[:1], [TrialAnswers(own, own, 0, [])], (), toy_patients.labels)
    assert tables.no_mean_note(common) == []


def two_sources(toy_patients: Manifest, *answered: np.ndarray[Any, Any] | None) -> tables.Outcomes:
    """Two sources with one seed; the first four of eight images are wrong."""
    truth = np.array([0, 1] * 4)
    y_pred = np.where(np.arange(8) < 4, 1 - truth, truth)
    predictions = TrialPredictions(list("abcdefgh"), list("abcdefgh"), truth, np.eye(2)[y_pred], y_pred)
    results: list[Any] = [SimpleNamespace(trial=SimpleNamespace(condition=name, seed=0)) for name in "AB"]
    answers = [TrialAnswers(own, own, 0, []) for own in (Answers(predictions, flags) for flags in answered)]
    return tables.Outcomes([], results, answers, (), toy_patients.labels)


def test_means_of_abstention_are_over_the_models_that_can_abstain(toy_patients: Manifest) -> None:
    """Source A is answered in two of eight images, one of them wrongly; the model of B cannot abstain."""
    outcomes = two_sources(toy_patients, np.arange(8) % 4 == 0, None)
    rows = {row["measure"]: row for row in outcomes.summary}
    assert (rows["accuracy"]["sources"], rows["accuracy"]["models"]) == (2, 2)
    assert (rows["coverage"]["sources"], rows["coverage"]["models"]) == (1, 1)
    assert rows["coverage"]["unseen"]["estimate"] == 0.25
    assert rows["silent_errors"]["unseen"]["estimate"] == 0.125
    a, b = tables.sources_table(outcomes).rows
    assert (a["can_abstain"], b["can_abstain"]) == (1, 0)
    assert b["coverage"]["method"] == "undefined: no model of it can abstain"
    sentences = tables.verdict(outcomes)
    assert (
        "Coverage and silent errors are those of 1 of 2 models; the others cannot abstain and answer every image." in sentences
    )


def test_models_that_cannot_abstain_say_so(toy_patients: Manifest) -> None:
    outcomes = two_sources(toy_patients, None, None)
    assert "No model can abstain: each answers every image, and its silent errors are all its errors." in tables.verdict(
        outcomes
    )
    assert tables.summary_table(outcomes).rows[-1]["sources"] == 0
    both = two_sources(toy_patients, np.arange(8) < 8, np.arange(8) < 8)
    assert not any("abstain and" in sentence or "can abstain" in sentence for sentence in tables.verdict(both))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([None], "The data states no source.*at least two sources.*--columns source=HOSPITAL"),
        (["A"], "The data has one source, 'A'.*at least two sources"),
        (["A", "B", None], "32 of 96 images have no source; the first is 008.png.*Every image states its source.*Fill"),
    ],
)
def test_sources_that_cannot_be_left_out_raise(
    sources: list[str | None], message: str, toy_patients: Manifest, make_experiment: MakeExperiment
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_sources(make_experiment(of_sources(toy_patients, sources)))


def test_an_unknown_source_suggests_the_nearest(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    with pytest.raises(UsageError, match="Did you mean 'North'"):
        plan_sources(make_experiment(of_sources(toy_patients, ["North", "South"])), ["Noth"])


def test_folds_in_the_recipe_raise(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    with pytest.raises(UsageError, match=r"data\.folds 5.*Leave data\.folds out"):
        plan_sources(make_experiment(of_sources(toy_patients, "AB"), "data.folds=5"))


def test_a_source_that_alone_has_a_class_is_not_left_out(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    sources = {"Healthy": "A", "Tumor": "B"}
    cases = [replace(case, source=sources[case.label]) for case in toy_patients.cases]
    with pytest.raises(UsageError, match=r"A is not left out.*class 'Healthy' has 0 independent groups"):
        plan_sources(make_experiment(replace(toy_patients, cases=tuple(cases))))
    mixed = [replace(case, source="C") if i < 24 else case for i, case in enumerate(cases)]
    possible = plan_sources(make_experiment(replace(toy_patients, cases=tuple(mixed))))
    assert [source.source for source in possible.sources] == ["A", "B", "C"]
    assert possible.impossible == []


def test_a_source_with_one_class_has_no_auroc_and_says_so(
    toy_patients: Manifest, make_experiment: MakeExperiment, table_rows: TableRows
) -> None:
    only_tumor = [i for i, case in enumerate(toy_patients.cases) if case.label == "Tumor"][:12]
    cases = [replace(case, source="T" if i in only_tumor else "AB"[i // 4 % 2]) for i, case in enumerate(toy_patients.cases)]
    report = leave_one_source_out(make_experiment(replace(toy_patients, cases=tuple(cases))), only=["T"])
    assert any(sentence.startswith("T: all images are of 'Tumor', so it has no AUROC") for sentence in report["not_done"])
    [row] = table_rows(report, "sources")
    assert row["auroc"]["estimate"] is None
    assert row["specificity"]["estimate"] is None
    assert row["sensitivity"]["estimate"] == row["accuracy"]["estimate"]
    assert report["charts"][0]["axis"] == "accuracy"


def test_a_split_in_the_data_is_not_used(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    cases = [replace(case, split="train") for case in of_sources(toy_patients, "AB").cases]
    experiment = plan.without_given_split(make_experiment(replace(toy_patients, cases=tuple(cases))))
    [held_out] = plan_sources(experiment, ["A"]).sources
    assert set(held_out.trials[0].splits) == {"train", "validation", "test"}


def test_silent_errors_are_wrong_answers_without_an_abstention() -> None:
    y_true, y_pred = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    y_prob = np.eye(2)[y_pred]
    predictions = TrialPredictions(list("abcd"), list("wxyz"), y_true, y_prob, y_pred)
    answered = np.array([True, True, False, False])
    statistic = Answers(predictions, answered).sample().statistic
    values = statistic(np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]]))
    assert values["coverage"].tolist() == [0.5, 0.5]
    assert values["silent_errors"].tolist() == [0.25, 0.0]
    unknown = Answers(predictions, None).sample().statistic(np.ones((1, 4)))
    assert np.isnan(unknown["silent_errors"]).all()


def test_subtype_columns_hold_0_and_1_for_positive_cases_only(toy_patients: Manifest) -> None:
    def columns(*values: str) -> list[str]:
        chosen = toy_patients.cases[:4]  # two healthy, two with a tumor
        cases = [replace(case, extra={"x": value}) for case, value in zip(chosen, values, strict=True)]
        return subtype_columns(cases, toy_patients.labels)

    assert columns("0", "", "1", "0") == ["x"]
    assert columns("1", "", "1", "0") == []
    assert columns("0", "0", "0", "0") == []
    assert columns("0", "0", "1", "0.5") == []
    assert columns("", "", "1", "") == []  # as in flag_columns
