"""The search for recipes: one fold for evaluation, the others for training, no test split; finished trials are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import UsageError
from reslink.training.data import TrainingData

SMALL = [
    *("preprocess.size=64", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]", "model.area_size=4"),
    *("trainer.epochs=1", "trainer.precision=fp32", "trainer.workers=0"),
]


@pytest.fixture
def search(search: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    trials = tmp_path / "trials.yaml"
    trials.write_text(yaml.safe_dump({"always": SMALL, "trials": {"tiny": [], "lesions": []}}))
    monkeypatch.setattr(search, "TRIALS", trials)
    return search


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_cohort(tmp_path_factory.mktemp("search") / "heads", PhantomSettings(patients=24, size=128, seed=3)))


def test_a_fold_has_no_image_of_the_test_split(search, training_data: TrainingData) -> None:
    folds = [search.folded(training_data, 3, fold).splits for fold in range(3)]
    for fold in folds:
        assert [p == "test" for p in fold] == [p == "test" for p in training_data.splits]
        assert "train" in fold
    evaluated = [sum(fold[i] == "validation" for fold in folds) for i in range(len(training_data.splits))]
    assert evaluated == [int(split != "test") for split in training_data.splits], (
        "each image outside the test split is evaluated in one fold"
    )


def test_a_trial_is_trained_once_and_points_at_lesions(
    search, heads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [heads, "--out", str(tmp_path / "out"), "--trial", "tiny", "--folds", "2"]
    search.main(words)
    row = json.loads((tmp_path / "out" / "heads_2_0_tiny_0" / "trial.json").read_text())
    assert 0 <= row["pointing"] <= 1
    assert 0 <= row["auroc"] <= 1
    printed = capsys.readouterr().out
    search.main(words)
    assert capsys.readouterr().out == printed
    (tmp_path / "out" / "heads_2_0_tiny_0" / "trial.json").unlink()
    search.main(words)
    assert capsys.readouterr().out.strip().endswith("| – |"), "the seconds of a trial that was resumed are unknown"
    search.TRIALS.write_text(yaml.safe_dump({"always": [*SMALL, "optimizer.lr=1e-4"], "trials": {"tiny": []}}))
    with pytest.raises(SystemExit, match="holds tiny with other settings or images"):
        search.main(words)


def test_a_variation_is_trained_evaluated_and_started_again(search, heads: str, tmp_path: Path) -> None:
    trials = {"always": SMALL, "trials": {"tiny": [], "varied": ["variation=statistics_gates"]}}
    search.TRIALS.write_text(yaml.safe_dump(trials))
    words = [heads, "--out", str(tmp_path / "out"), "--folds", "2", "--trial"]
    rows = []
    for _ in range(2):
        search.main([*words, "varied"])
        done = tmp_path / "out" / "heads_2_0_varied_0" / "trial.json"
        rows.append({name: value for name, value in json.loads(done.read_text()).items() if name != "cpu_seconds"})
        done.unlink()
    search.main([*words, "tiny"])
    plain = json.loads((tmp_path / "out" / "heads_2_0_tiny_0" / "trial.json").read_text())
    assert rows[0] == rows[1]
    assert plain["loss"] != rows[0]["loss"]


def test_a_trial_takes_the_changes_of_the_parts_that_it_names(search) -> None:
    text = """
    always: [trainer.epochs=3]
    parts:
      fine: &fine [trainer.batch_size=4, optimizer.lr=1e-4]
    trials:
      tiny: [model.drop_rate=0.25, *fine, variation=growing]
    """
    trials = yaml.safe_load(text)
    recipe = search.recipe_of(trials, "tiny", 5)
    assert (recipe.trainer.epochs, recipe.trainer.batch_size, recipe.optimizer.lr) == (3, 4, 1e-4)
    assert (recipe.model.drop_rate, recipe.seed, recipe.trainer.export) == (0.25, 5, "last")
    assert search.variation_of(trials, "tiny") == "growing"


def test_every_trial_that_is_written_down_gives_a_recipe(search) -> None:
    trials = yaml.safe_load(Path(search.__file__).with_name("trials.yaml").read_text(encoding="utf-8"))
    digests = {name: search.recipe_of(trials, name, 0).digest() for name in trials["trials"]}
    plain = [digest for name, digest in digests.items() if search.variation_of(trials, name) is None]
    assert len(set(plain)) == len(plain), "two names for one trial"


def test_a_wrong_name_names_the_nearest(search) -> None:
    with pytest.raises(UsageError, match="lesions"):
        search.recipe_of({"always": SMALL, "trials": {"tiny": [], "lesions": []}}, "lesion", 0)


def test_a_wrong_trial_ends_with_a_message_and_no_traceback(search, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no trial 'tini'"):
        search.main([str(tmp_path), "--out", str(tmp_path / "out"), "--trial", "tini"])


@pytest.mark.parametrize("folds", [["--fold", "3"], ["--fold", "-1"], ["--folds", "1"]])
def test_a_fold_that_does_not_exist_ends_with_a_message(search, tmp_path: Path, folds: list[str]) -> None:
    with pytest.raises(SystemExit, match="numbered from 0"):
        search.main([str(tmp_path), "--out", str(tmp_path / "out"), *folds])
