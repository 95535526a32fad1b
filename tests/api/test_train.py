"""``reslink.train``, and the parts of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import reslink
from reslink.api.train import _test_cases
from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.labels import Labels


def test_the_result_names_files_and_metrics(trained: dict[str, Any]) -> None:
    run = Path(trained["run"])
    assert all(Path(trained[name]).exists() for name in ("run", "bundle", "report"))
    assert trained["epochs"] == 1
    assert trained["metrics"]["accuracy"]["n"] == trained["n_test"] > 0
    assert (run / "figures" / "gallery.json").is_file()
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    assert (recipe["seed"], recipe["trainer"]["batch_size"], recipe["model"]["dims"]) == (5, 8, [8, 16])


def test_the_command_gives_the_same_summary(
    trained: dict[str, Any], heads: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is finished, so the command only evaluates it again. It loads the bundle once."""
    loaded = []
    load = Bundle.load
    monkeypatch.setattr(Bundle, "load", lambda folder: loaded.append(folder) or load(folder))
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    options = ["--epochs", "1", "--batch-size", "8", "--seed", "5", "--resume", "--json"]
    done = CliRunner().invoke(app, ["train", str(heads), "--out", trained["run"], *words, *options])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(trained))
    assert loaded == [Path(trained["bundle"])]


def test_nothing_is_printed_and_settings_may_be_texts(heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"trainer\.epoch.*trainer\.epochs"):
        reslink.train(heads, tmp_path / "run", settings=["trainer.epoch=3"])
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()


def test_a_text_of_a_mapping_stays_a_text(heads: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optimizer\.lr is '1e-3'\. It is a number"):
        reslink.train(heads, tmp_path / "run", settings={"optimizer.lr": "1e-3"})
    with pytest.raises(UsageError, match=r"settings=\['trainer\.epoch'\] is not a setting"):
        reslink.train(heads, tmp_path / "run", settings={"trainer.epoch": 3})


def test_only_the_test_split_of_a_run_is_evaluated(tmp_path: Path) -> None:
    cases = tuple(Case(tmp_path / name, "A", name=name) for name in ("a.png", "b.png", "c.png"))
    (tmp_path / "splits.csv").write_text("sample_id,split\na.png,train\nb.png,test\nc.png,validation\n")
    test_cases = _test_cases(Manifest(cases, Labels(("A", "B")), tmp_path), tmp_path / "splits.csv")
    assert [(case.name, case.split) for case in test_cases.cases] == [("b.png", "test")]
