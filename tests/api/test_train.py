"""``reslink.train``, and the parts of a run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import reslink
from reslink.api.train import _test_cases
from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.cli.offline import block_network
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.labels import Labels
from reslink.training.monitoring.progress import SilentProgress


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
    monkeypatch.setattr(Bundle, "load", lambda folder, network=None: loaded.append(folder) or load(folder, network))
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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textured disks of both classes: MR to train on, of the test images half CT."""
    folder = tmp_path_factory.mktemp("mixed")
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:64, :64] - 32
    rows = []
    for i in range(24):
        split = "train" if i < 12 else "validation" if i < 16 else "test"
        unit = "hu" if split == "test" and i % 4 < 2 else "mr"
        head = np.hypot(y, x * (1 + 0.02 * i)) < 26
        texture = np.kron(rng.uniform(0.2, 1, (16, 16)), np.ones((4, 4)))
        np.save(folder / f"{i:02d}.npy", np.where(head, texture * 80, -1000) if unit == "hu" else head * texture * 900)
        rows.append(f"{i:02d}.npy,{('Healthy', 'Tumor')[i % 2]},p{i},{split},{unit}")
    (folder / "manifest.csv").write_text("\n".join(["path,label,patient_id,split,unit", *rows]))
    return folder


@pytest.mark.usefixtures("without_onnx_model")
def test_a_run_says_what_its_model_refuses_and_is_kept_if_that_is_every_test_image(
    mixed: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(SilentProgress, "message", lambda _self, text: messages.append(text))
    run = tmp_path / "run"
    options: dict[str, Any] = {"settings": settings, "epochs": 1, "batch_size": 6}
    result = reslink.train(mixed, run, **options)
    reason = "the file is CT, and the model is for MR of the head"
    assert (result["n_test"], result["n_refused"]) == (4, 4)
    assert set(result["refused"].values()) == {reason}
    [finding] = [finding for finding in result["findings"] if finding["code"] == "mixed-modalities"]
    assert "Healthy (CT 2, MR 10), Tumor (CT 2, MR 10)" in finding["message"]
    assert any(text.startswith("mixed-modalities: ") and "one model per modality" in text for text in messages)
    text = "4 images refused and not counted"
    page = (run / "report.html").read_text()
    assert "4 more are in no metric" in page
    assert f'The {reason.removeprefix("the ")}</span></th><td class="n">4</td>' in page
    assert (
        f"4 images in 4 groups (patients, with near duplicates joined). {text}."
        in (run / "bundle" / "MODEL_CARD.md").read_text()
    )
    assert "12.npy" not in (run / "bundle" / "bundle.json").read_text()

    splits = (run / "splits.csv").read_text().splitlines()
    only_ct = [line.replace(",test,", ",train,") if line[:6] not in result["refused"] else line for line in splits]
    (run / "splits.csv").write_text("\n".join(only_ct))
    message = r"is trained, but .*All 4 images are refused.*for MR of the head\. The run is kept in .*reslink evaluate"
    with pytest.raises(InputError, match=message):
        reslink.train(mixed, run, resume=True, **options)
    assert Bundle.load(run / "bundle").scope.modality == "MR"
    assert (run / "report.html").is_file()


@pytest.mark.usefixtures("without_onnx_model")
def test_a_run_is_fine_tuned_and_evaluated_on_images_that_its_parent_did_not_see(
    trained: dict[str, Any], heads: Path, tmp_path: Path
) -> None:
    settings = {"trainer.workers": 0, "trainer.device": "cpu", "diagnostics.enabled": False, "data.fractions": [0.2, 0.4, 0.4]}
    options: dict[str, Any] = {"settings": settings, "epochs": 1, "batch_size": 4, "freeze": ["stem"]}
    result = reslink.train(heads, tmp_path / "tuned", init=Path(trained["run"]), seed=8, **options)
    bundle, parent = Bundle.load(result["bundle"]), Bundle.load(trained["bundle"])
    assert bundle.architecture == parent.architecture
    assert bundle.preprocess == parent.preprocess
    assert [ancestor.weights_sha256 for ancestor in bundle.lineage] == [parent.weights_sha256]
    rows = {run: _splits(Path(run)) for run in (trained["run"], result["run"])}
    learned = {name for name, split in rows[trained["run"]].items() if split == "train"}
    tested = {name for name, split in rows[result["run"]].items() if split == "test"}
    assert tested
    assert not tested & learned
    assert result["n_test"] + result["n_refused"] == len(tested)
    unused = {name for name, split in rows[result["run"]].items() if split == "unused"}
    [finding] = [finding for finding in result["findings"] if finding["code"] == "seen-by-ancestors"]
    assert f"trained on {len(unused)} of the validation and test images" in finding["message"]
    again = reslink.evaluate(result["bundle"], heads, tmp_path / "evaluated")
    assert {case["path"] for case in again["excluded"]} >= learned


def _splits(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as stream:
        return {row["sample_id"]: row["split"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--init", "cta"], ["no shipped model of that name", "Did you mean 'ct'?"]),
        (["--init", "ct", "--freeze", "stem, steem"], ["--freeze (init.freeze) names 'steem'", "Did you mean 'stem'?"]),
        (["--freeze", "stem"], ["there is no parent"]),
        (["--init", "ct", "--set", "model.variant=reslink_paper"], ["the network of ct is reslink_context"]),
    ],
)
def test_the_command_refuses_what_cannot_be_fine_tuned(
    options: list[str], words: list[str], heads: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app, ["train", str(heads), "--out", str(tmp_path / "run"), "--set", "trainer.device=cpu", *options]
    )
    assert done.exit_code == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_finished_run_is_recorded_with_its_evaluation(
    trained: dict[str, Any], heads: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The result and the recipe are those without a tracker, and every epoch, metric and picture is in the event files."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shutil.copytree(trained["run"], run)
    recipe = (run / "config.yaml").read_bytes()
    options: dict[str, Any] = {"settings": settings, "epochs": 1, "batch_size": 8, "seed": 5, "resume": True}
    result = reslink.train(heads, run, track="tensorboard", **options)
    assert result["tracking"] == {"tensorboard": 0}
    assert result["metrics"] == trained["metrics"]
    assert (run / "config.yaml").read_bytes() == recipe
    events = EventAccumulator(str(run / "tracking" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1]
    assert events.Scalars("test_auroc")[0].value == pytest.approx(trained["metrics"]["auroc"]["estimate"])
    assert len(events.Tags()["images"]) == len(json.loads((run / "figures" / "gallery.json").read_text()))


def test_a_tracker_is_checked_before_the_data_is_read(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(tmp_path / "missing"), "--out", str(out), "--track", "mlfow"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "Error: There is no tracker 'mlfow'.",
        "  The trackers are tensorboard, mlflow, wandb.",
        "  Did you mean 'mlflow'?",
    ]
    assert not out.exists()


def test_wandb_needs_a_socket(tmp_path: Path) -> None:
    words = ["train", str(tmp_path), "--out", str(tmp_path / "run"), "--track", "wandb", "--offline"]
    done = CliRunner().invoke(app, words)
    block_network(False)
    assert done.exit_code == 2
    assert "--track wandb and --offline were both given" in done.stderr
    assert not (tmp_path / "run").exists()
