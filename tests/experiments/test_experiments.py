"""Each study end to end on toy heads; nothing is trained twice; what fails is named and the rest goes on."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import GateError, UsageError
from reslink.experiments import epochs as epochs_module
from reslink.experiments.ablation.ablation import ablation
from reslink.experiments.data_size import data_size, shrunk
from reslink.experiments.epochs import epochs
from reslink.experiments.leakage import leakage
from reslink.experiments.runner import run_one
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.run_spec import UNUSED
from reslink.experiments.shortcuts import shortcuts

MakeSetting = Callable[..., Setting]


def refuse_training(*_: Any, **__: Any) -> None:
    raise AssertionError("this was trained before")


def table(study: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return next(found["rows"] for found in study["tables"] if found["name"] == name)


def test_ablation_says_what_it_should_and_trains_nothing_twice(
    patients: Manifest, setting: MakeSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setting(patients)
    study = ablation(made, ["no_attention"], [1])
    folder = made.out / "ablation"
    assert json.loads((folder / "study.json").read_text()) == study
    assert [row["arm"] for row in table(study, "figures")] == ["full", "no_attention", "area_1"]
    full = next(row for row in table(study, "stability") if row["arm"] == "full")
    assert 0 < full["final_share"] < 1
    assert 0 < full["final_weights"] < 1
    assert full["gradient_highest"] >= full["gradient_median"] > 0
    assert full["diverged"] == "0 of 1"
    assert {(row["layer"], row["region"]) for row in table(study, "attention") if row["arm"] == "full"} == {
        ("first", "head"), ("first", "lesion"), ("final", "head"), ("final", "lesion")
    }  # fmt: skip
    assert [row["arm"] for row in table(study, "borders")] == ["full"]
    with (folder / "study.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["arm"], row["seed"]) for row in rows] == [("full", "0"), ("no_attention", "0"), ("area_1", "0")]
    page = (folder / "report.html").read_text()
    assert "Research use only" in page
    assert re.search(r"\bnan\b", page, re.IGNORECASE) is None

    monkeypatch.setattr(run_one, "train", refuse_training)
    assert ablation(setting(patients), ["no_attention"], [1]) == study


def test_studies_in_one_folder_share_their_runs(
    patients: Manifest, setting: MakeSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = epochs(setting(patients), [1, 2])
    assert [row["title"] for row in table(study, "figures")] == ["1 epoch", "2 epochs"]
    [few] = {row["groups"] for row in table(study, "fit")}
    assert few < 10
    assert {row["verdict"] for row in table(study, "fit")} == {f"not told by {few} groups"}
    assert any("cannot be told from so few patients" in sentence for sentence in study["answer"])
    trained = []
    monkeypatch.setattr(
        run_one, "train", lambda *words, **more: trained.append(words[1].trainer.epochs) or train(*words, **more)
    )
    data_size(setting(patients), [50.0])
    assert trained == [2]  # half of the patients, so twice the epochs; the whole is that of the other study


train = run_one.train


def test_leakage_needs_something_that_can_leak(setting: MakeSetting, tmp_path: Path, patients: Manifest) -> None:
    single = tmp_path / "single.csv"
    rows = [f"{case.path.name},{case.label}" for case in patients.cases[::2]]
    for case in patients.cases[::2]:
        (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
    single.write_text("path,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="near copies of one another"):
        leakage(setting(Manifest.open(single)))


def test_leakage_trains_on_both_splits_and_counts_relatives(copies: Manifest, setting: MakeSetting) -> None:
    made = setting(copies)
    study = leakage(made)
    assert [row["arm"] for row in table(study, "figures")] == ["clean", "random"]
    assert "preprocess.size 64" in study["facts"]["Other settings than the default"]
    assert study["facts"]["Images that share a group with another"] == 48
    judged = {row["arm"]: json.loads((made.runs / row["run"] / "evaluation.json").read_text()) for row in study["runs"]}
    assert judged["clean"]["leakage"]["status"] == "none found"
    assert judged["random"]["leakage"]["status"] == "allowed"
    assert judged["random"]["metrics"]["accuracy"]["leakage"] is True


def test_shortcuts_train_on_four_looks_and_judge_across(patients: Manifest, setting: MakeSetting) -> None:
    study = shortcuts(setting(patients))
    assert [row["arm"] for row in table(study, "figures")] == ["isolated", "whole", "outside", "outline"]
    assert len(table(study, "cross")) == 7
    outside = next(row for row in table(study, "figures") if row["arm"] == "outside")
    assert outside["accuracy"]["estimate"] is not None


def test_a_split_with_a_patient_on_two_sides_is_refused(patients: Manifest, setting: MakeSetting, tmp_path: Path) -> None:
    sides = ["train", "test", "train", "validation"]
    rows = [f"{case.path.name},{case.label},{case.patient_id},{sides[i % 4]}" for i, case in enumerate(patients.cases)]
    for case in patients.cases:
        (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
    (tmp_path / "torn.csv").write_text("path,label,patient_id,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(GateError, match="stands on two sides"):
        epochs(setting(Manifest.open(tmp_path / "torn.csv")), [1, 2])


def test_a_random_split_is_refused_unless_leakage_is_allowed(patients: Manifest, setting: MakeSetting) -> None:
    with pytest.raises(GateError, match="stands on two sides"):
        epochs(setting(patients, "data.group_by=none"), [1, 2])
    study = ablation(setting(patients, "data.group_by=none", "data.allow_leakage=true"), ["no_attention"], [])
    assert "every figure may be too good" in study["answer"][0]
    assert "every figure may be too good" in study["tables"][0]["note"]


def test_a_run_that_diverges_is_named_and_the_rest_goes_on(
    patients: Manifest, setting: MakeSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a network without residual links whose gradient is not finite."""
    from reslink.training.step import Learner, NotFiniteError

    step = Learner._step

    def planted(self: Learner, *words: Any) -> Any:
        if not self.network.config.residual:
            raise NotFiniteError("gradient")
        return step(self, *words)

    monkeypatch.setattr(Learner, "_step", planted)
    study = ablation(setting(patients), ["no_residual"], [])
    assert [one["run"] for one in study["failed"]] == ["no_residual, seed 0"]
    assert "not finite" in study["failed"][0]["reason"]
    row = next(row for row in table(study, "stability") if row["arm"] == "no_residual")
    assert row["diverged"] == "1 of 1"
    missing = next(row for row in table(study, "figures") if row["arm"] == "no_residual")
    assert missing["accuracy"]["estimate"] is None
    assert table(study, "figures")[0]["accuracy"]["estimate"] is not None
    monkeypatch.setattr(run_one, "train", refuse_training)
    assert ablation(setting(patients), ["no_residual"], [])["failed"] == study["failed"]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_part_of_the_patients_is_whole_patients_of_both_classes(
    patients: Manifest, setting: MakeSetting, share: float
) -> None:
    made = setting(patients)
    whole = made.trial("full", 0).parts
    small, larger = (shrunk(made, whole, part, 0) for part in (share, min(1.0, 2 * share)))
    assert small is not None
    assert larger is not None
    assert [part for part in small if part == "test"] == [part for part in whole if part == "test"]
    sides: dict[str, set[str]] = {}
    for group, part in zip(made.data.groups, small, strict=True):
        sides.setdefault(group, set()).add(part)
    assert all(len(parts) == 1 for parts in sides.values())
    assert all(b == a for a, b in zip(small, larger, strict=True) if a != UNUSED)
    trained = [case.label for case, part in zip(made.cache.manifest.cases, small, strict=True) if part == "train"]
    total = [case.label for case, part in zip(made.cache.manifest.cases, whole, strict=True) if part == "train"]
    for label in ("Healthy", "Tumor"):
        assert trained.count(label) == pytest.approx(share * total.count(label), abs=2)
        assert trained.count(label) > 0


@pytest.mark.parametrize(
    ("gap", "losses", "verdict"),
    [
        (0.0, [0.6, 0.4, 0.3], "under-fitted"),
        (0.0, [0.6, 0.3, 0.299], "neither"),
        (0.0, [0.6, 0.3, 0.4], "over-fitted"),
        (0.2, [0.6, 0.4, 0.3], "over-fitted"),
        (0.0, [0.6], "neither"),
    ],
)
def test_over_and_under_fitted(gap: float, losses: list[float], verdict: str) -> None:
    assert epochs_module.verdict(gap, [np.array(losses)], [None]) == verdict


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: ablation(s, ["no_atention"]), "Did you mean 'no_attention'"),
        (lambda s: epochs(s, [5]), "two or more different lengths"),
        (lambda s: data_size(s, [0.0]), "up to 100 percent"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_trained(
    patients: Manifest, setting: MakeSetting, tmp_path: Path, call: Callable[[Setting], Any], message: str
) -> None:
    made = setting(patients, out=tmp_path)
    with pytest.raises(UsageError, match=message):
        call(made)
    assert not made.runs.exists()


def test_seeds_are_different_numbers(patients: Manifest, setting: MakeSetting) -> None:
    with pytest.raises(UsageError, match="different numbers"):
        setting(patients, seeds=(1, 1))
