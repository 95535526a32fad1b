"""``reslink bench``: output and refusals."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.bundles.bundle import Bundle
from reslink.cli.commands import bench
from reslink.cli.console import Console
from reslink.cli.main import app
from reslink.imaging.preprocess import Preprocess
from reslink.inference.bench import STAGES
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(word) for word in words)])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = ResLinkConfig(stem_dim=4, dims=(4,), depths=(0,))
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    saved = Bundle(architecture, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    saved.save(tmp_path / "bundle", build_network(config, seed=0).state_dict())
    return tmp_path / "bundle"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts no process; that has its own test."""
    monkeypatch.setattr(bench, "_process", lambda *given: (1.5, 100.0 + len(given[2])))


@pytest.mark.usefixtures("quick")
def test_json_holds_every_backend_and_stage(bundle: Path) -> None:
    result = invoke(bundle, "--images", "1", "--seconds", "0.1", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.keys() == {"bundle", "machine", "images", "batch_size", "backends", "skipped", "seconds"}
    assert found["images"] == {"PNG 256×256": 1, "PNG 512×512": 1}
    assert found["bundle"]["name"] == bundle.parent.name
    assert found["bundle"]["weights_sha256"] == Bundle.load(bundle).weights_sha256
    assert [row["backend"] for row in found["backends"] if row["precision"] == "fp32"] == ["torch", "onnxruntime", "openvino"]
    for row in found["backends"]:
        assert row.keys() == {"backend", "precision", "latency", "throughput", "cold_start", "peak_memory_mib"}
        for times in row["latency"].values():
            assert 0 < times["median_ms"] <= times["p95_ms"]
            assert tuple(times["stages"]) == STAGES
            assert times["processor_share"] > 0
        assert row["throughput"]["images_per_second"] > 0
        exact = row["precision"] == "fp32"
        assert row["cold_start"] == ({"n": bench.COLD_STARTS, "median_s": 1.5} if exact else None)
        assert row["peak_memory_mib"] == (102.0 if exact else None)
    assert Bundle.load(bundle).onnx_model is None, "the graph is made beside the bundle, not in it"


@pytest.mark.usefixtures("quick")
def test_one_backend_on_own_images(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image as Picture

    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "0.gif").write_bytes(b"GIF89a")
    for i in range(3):
        Picture.new("L", (40 + i, 50), 90).save(tmp_path / "ward" / f"{i}.png")
    result = invoke(bundle, "--data", tmp_path / "ward", "--images", "2", "--backend", "torch", "--seconds", "0.1")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split("\t")[:5] == ["backend", "image", "n", "median", "95 %"]
    assert [line.split("\t")[0] for line in lines] == ["backend", "torch", "backend", "torch"]
    assert lines[1].split("\t")[1] == "given images"
    assert str(tmp_path) not in result.output, "the output can be shared: it holds no path"
    assert "0.gif: is a file in the format GIF" in result.stderr
    [files] = bench._user_images(tmp_path / "ward", 2, Console(quiet=True)).values()
    assert [file.name for file in files] == ["0.png", "1.png"], "another image for the one that cannot be read"
    for i in range(3):
        (tmp_path / "ward" / f"{i}.png").unlink()
    none = invoke(bundle, "--data", tmp_path / "ward", "--backend", "torch", "--seconds", "0.1")
    assert none.exit_code == 1
    assert "could be read.\n  The benchmark needs at least one image.\n  Choose another folder" in none.stderr


@pytest.mark.usefixtures("quick")
def test_the_default_bundle_is_the_shipped_ct(zoo_with_ct: Path) -> None:
    result = invoke("--images", "1", "--seconds", "0.1", "--backend", "torch", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["bundle"]
    assert (found["name"], found["weights_sha256"]) == ("ct", Bundle.load(zoo_with_ct / "ct").weights_sha256)


@pytest.mark.parametrize(("share", "warned"), [(0.5, True), (0.97, False)])
def test_a_busy_machine_gives_a_warning(share: float, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"n": 3, "median_ms": 2.0, "p95_ms": 3.0, "processor_share": share, "stages": dict.fromkeys(STAGES, 0.5)}
    row = {"backend": "torch", "precision": "fp32", "latency": {"PNG": times}, "throughput": {"images_per_second": 9.0}}
    row |= {"cold_start": None, "peak_memory_mib": None}
    result = {"backends": [row], "machine": {"processor": "any", "threads": 1}, "skipped": [], "seconds": 9.0}
    bench._print_result(Console(), result | {"bundle": {"name": "ct"}})
    printed = capsys.readouterr().err
    assert ("The machine was busy: other programs used 50% of the measured time" in printed) is warned
    assert ("upper bounds" in printed) is warned


def test_a_process_is_measured(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image as Picture

    Picture.new("L", (64, 64), 90).save(tmp_path / "one.png")
    start = time.perf_counter()
    seconds, memory = bench._process(bundle, "torch", [tmp_path / "one.png"])
    assert 0.2 < seconds <= time.perf_counter() - start
    assert 50 < memory < 4000


def test_a_predict_that_fails_is_an_error(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(bench.ReslinkError, match="ended with exit code 2"):
        bench._process(bundle, "onnxruntime", [tmp_path / "one.png"])


def test_predict_names_the_nearest_backend(bundle: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(bundle), "scan.png", "--backend", "onnxruntim"])
    assert result.exit_code == 2
    assert "There is no backend 'onnxruntim'" in result.stderr
    assert "Did you mean 'onnxruntime'" in result.stderr


def test_an_unknown_backend_names_the_nearest(bundle: Path) -> None:
    result = invoke(bundle, "--backend", "onnxruntim")
    assert result.exit_code == 2
    assert "Did you mean 'onnxruntime'" in result.stderr


@pytest.mark.usefixtures("quick")
def test_a_bundle_without_onnx_model_is_measured_in_torch(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "onnxscript" else name)
    found = json.loads(invoke(bundle, "--images", "1", "--seconds", "0.1", "--json").stdout)
    assert [row["backend"] for row in found["backends"]] == ["torch"]
    assert {item["reason"] for item in found["skipped"]} == {"the bundle has no model.onnx"}
    result = invoke(bundle, "--images", "1", "--backend", "openvino")
    assert (result.exit_code, "has no model.onnx" in result.stderr) == (2, True)
