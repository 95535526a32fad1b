"""The script that builds the shipped bundles refuses invalid bundles and keeps the previous one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from reslink.bundles.bundle import Bundle
from reslink.errors import ReslinkError, UsageError
from reslink.labels import Labels


@pytest.fixture
def shipped_again(make_bundles: ModuleType, built_zoo: Path, ship_texts: Path, tmp_path: Path) -> Callable[..., Path]:
    """Builds a bundle from one that was built already, changed in one way."""

    def build(name: str = "ct", **changes: Any) -> Path:
        first, texts = Bundle.load(built_zoo / "ct"), dict(changes)
        metrics, known = (getattr(first, key) | texts.pop(key, {}) for key in ("metrics", "provenance"))
        replace(first, provenance=known).with_decision(first.decision, tmp_path / "run").with_metrics(metrics)
        entry = yaml.safe_load(ship_texts.read_text())["ct"] | texts
        (tmp_path / "texts.yaml").write_text(yaml.safe_dump({"ct": entry}))
        return make_bundles.build(name, tmp_path / "run", tmp_path / "zoo", tmp_path / "texts.yaml")

    return build


def test_the_same_bundle_is_built_again(shipped_again, built_zoo: Path, tmp_path: Path) -> None:
    assert shipped_again() == tmp_path / "zoo" / "ct"
    names = {path.name for path in (built_zoo / "ct").iterdir()}
    arrays = {"model.safetensors", "model.onnx", "decision.safetensors", "fingerprints.safetensors"}
    assert names == {"bundle.json", "MODEL_CARD.md", *arrays}
    for name in names:
        assert (tmp_path / "zoo" / "ct" / name).read_bytes() == (built_zoo / "ct" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"split": None}}, "it holds no metrics of a test split"),
        ({"metrics": {"metrics": {}}}, "it holds no metrics of a test split"),
        ({"metrics": {"leakage": {"status": "allowed", "message": "3 of 30"}}}, "may be affected by leakage: 3 of 30"),
        ({"metrics": {"leakage": {"status": "unknown", "message": "no prints"}}}, "may be affected by leakage: no prints"),
        ({"reproduce": ["reslink train DATA --out RUN --seed 4"]}, "recipe of the run: seed was 3, is 4"),
        ({"reproduce": ["reslink train DATA --seed 3 --epochs 99"]}, r"recipe of the run: trainer\.epochs was 5, is 99"),
        ({"reproduce": ["OMP_NUM_THREADS=1 reslink train DATA --seed 4"]}, "recipe of the run: seed was 3, is 4"),
        ({"reproduce": ["make it"]}, "reproduce names no 'reslink train'"),
        ({"provenance": {"notes": "made in /home/jane/runs"}}, r"bundle\.json: /home/jane/runs"),
        ({"license": ""}, "license: String should have at least 1 character"),
        ({"licens": "x"}, "licens: Extra inputs are not permitted"),
        ({"source": "ct_mri_kagle"}, "Did you mean 'ct_mri_kaggle'"),
        ({"name": "cct"}, "texts.yaml has no entry 'cct'.*Did you mean 'ct'"),
    ],
)
def test_invalid_bundles_are_refused(changes: dict[str, Any], said: str, shipped_again, tmp_path: Path) -> None:
    (tmp_path / "zoo" / "ct").mkdir(parents=True)
    (tmp_path / "zoo" / "ct" / "earlier").touch()
    with pytest.raises(ReslinkError, match=said):
        shipped_again(**changes)
    assert [path.name for path in (tmp_path / "zoo").rglob("*")] == ["ct", "earlier"]


def test_a_bundle_that_was_not_calibrated(
    make_bundles: ModuleType, finished_run: Path, ship_texts: Path, tmp_path: Path
) -> None:
    parts = "has no calibration and operating point; .*no prediction sets; .*no out-of-distribution detector"
    said = f"{parts}; it holds no metrics.*Give --data"
    with pytest.raises(ReslinkError, match=said):
        make_bundles.build("ct", finished_run, tmp_path / "zoo", ship_texts)


def test_a_bundle_that_is_too_large(shipped_again, make_bundles: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_bundles, "MAX_BUNDLE_BYTES", 1000)
    with pytest.raises(ReslinkError, match=r"bytes and private strings: none.*less than 1,000 bytes.*Train a smaller network"):
        shipped_again()


def test_data_of_another_run(make_bundles, finished_run: Path, ring_heads: Path, ship_texts: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished_run, tmp_path / "run"))
    text = (other / "splits.csv").read_text()
    (other / "splits.csv").write_text(text.replace("00.png", "elsewhere.png"))
    with pytest.raises(UsageError, match=r"is not the data of .*run\. The run names its cases"):
        make_bundles.build("ct", other, tmp_path / "zoo", ship_texts, data=make_bundles.RunData([ring_heads]))
    (other / "splits.csv").unlink()
    with pytest.raises(UsageError, match=r"holds no splits\.csv.*Give the run itself"):
        make_bundles.build("ct", other, tmp_path / "zoo", ship_texts, data=make_bundles.RunData([ring_heads]))


def test_the_map_of_one_data_set(make_bundles: ModuleType, ring_heads: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(ring_heads, tmp_path / "data"))
    table = data / "manifest.csv"
    table.write_text(table.read_text().replace("Tumor", "spot"))
    manifest = make_bundles.RunData([data], map=["spot=Tumor"]).open(Labels(("Healthy", "Tumor")))
    assert manifest.label_counts() == {"Healthy": 45, "Tumor": 45}


def test_the_command_prints_errors(make_bundles, finished_run: Path, ship_texts: Path, tmp_path: Path, capsys) -> None:
    words = [str(finished_run), "--into", str(tmp_path), "--texts", str(ship_texts)]
    assert make_bundles.main(["ct", *words, "--audit", str(tmp_path / "none.json")]) == 2
    assert make_bundles.main(["cct", *words]) == 2
    said = capsys.readouterr()
    assert "has no entry 'cct'" in said.err
    assert said.out == ""
