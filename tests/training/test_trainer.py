"""A run from images to a bundle: its files, its options, and what stops it."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import TrainingError, UsageError
from reslink.files import sha256
from reslink.labels import Labels
from reslink.networks.area_attention import record_attention_weights
from reslink.settings_text import read_json
from reslink.training import losses, validation
from reslink.training.data import open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.step import Learner
from reslink.training.trainer import RunResult, train

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(marked: Manifest, recipe: Make, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One run on images with patients."""
    made = recipe("trainer.epochs=4", "data.group_by=patient", "optimizer.lr=0.01", "seed=5")
    return train(marked, made, tmp_path_factory.mktemp("runs") / "run", cache=cache)


def rows(result: RunResult) -> list[dict[str, str]]:
    with (result.folder / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_files_of_a_run(run: RunResult) -> None:
    names = {path.name for path in run.folder.iterdir() if path.name[0] != "."}
    files = {"config.yaml", "environment.json", "splits.csv", "metrics.jsonl", "results.csv"}
    assert names == files | {"checkpoints", "bundle"}
    resolved = load_recipe(run.folder / "config.yaml")
    assert (resolved.seed, resolved.trainer.epochs, resolved.loss.label_smoothing) == (5, 4, 0.05)
    assert len(rows(run)) == 4
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} >= {"step", "epoch"}
    assert all(0 <= float(row["data_wait_share"]) < 1 and float(row["images_per_second"]) > 0 for row in rows(run))


def test_no_file_of_a_run_names_host_user_or_folder(run: RunResult, marked: Manifest) -> None:
    import getpass
    import platform

    for path in run.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in (str(marked.root), str(run.folder)):
                assert word.encode() not in content, (path.name, word)
            if path.suffix != ".safetensors":  # a short host name may stand in weights by chance
                assert not re.search(rf"\b{re.escape(platform.node())}\b", content.decode()), path.name
    found = json.loads((run.folder / "environment.json").read_text())
    assert getpass.getuser() not in found.values()
    assert found["versions"]["torch"] == torch.__version__


def test_splits_csv_keeps_patients_together(run: RunResult, marked: Manifest) -> None:
    with (run.folder / "splits.csv").open() as stream:
        splits = list(csv.DictReader(stream))
    assert list(splits[0]) == ["sample_id", "patient_id", "label", "split", "group", "sha256"]
    assert {row["sample_id"] for row in splits} == {case.name for case in marked.cases}
    assert splits[0]["sha256"] == sha256(marked.root / splits[0]["sample_id"])
    sides: dict[str, set[str]] = {}
    for row in splits:
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert {row["split"] for row in splits} == {"train", "validation", "test"}


def test_the_bundle_gives_the_metrics_of_its_epoch(run: RunResult, marked: Manifest, recipe: Make, cache: Path) -> None:
    """An independent way to the validation figures: the bundle's network, the split file, NumPy."""
    bundle = Bundle.load(run.bundle)
    with (run.folder / "splits.csv").open() as stream:
        part = {row["sample_id"] for row in csv.DictReader(stream) if row["split"] == "validation"}
    pixels = PixelCache.open(marked, bundle.preprocess, cache, workers=0)
    where = [i for i, case in enumerate(pixels.manifest.cases) if case.name in part]
    with torch.no_grad():
        logits = bundle.network()(torch.from_numpy(bundle.preprocess.normalize(pixels.pixels[where]))).numpy()
    probability = bundle.decision.probabilities(logits)
    truth = pixels.targets[where]
    expected = -np.log(probability[np.arange(len(truth)), truth]).mean()
    assert run.validation["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert run.validation["val_accuracy"] == pytest.approx(np.mean(probability.argmax(axis=1) == truth))
    assert run.validation["val_auroc"] is not None
    assert float(rows(run)[run.best_epoch - 1]["val_loss"]) == run.validation["val_loss"]


def test_the_bundle_states_its_provenance(run: RunResult) -> None:
    known = Bundle.load(run.bundle).provenance
    assert known["license"] == "not stated by the data"
    assert known["recipe"] == load_recipe(run.folder / "config.yaml").published()
    assert known["seed"] == 5
    assert sum(sum(part.values()) for part in known["data"]["images"].values()) == 48
    assert len(known["data"]["digest"]) == 64
    assert Bundle.load(run.bundle).labels.names == ("Healthy", "Tumor")
    assert Bundle.load(run.bundle).decision.threshold_source == "set by the recipe"


def test_the_best_epoch_is_exported_or_the_last(
    toy: Manifest, recipe: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aurocs = iter([0.6, 0.9, 0.7] * 2)
    monkeypatch.setattr(
        "reslink.training.loop.evaluate_validation", lambda *_: validation.ValidationResult(0.5, 0.5, next(aurocs))
    )
    best = train(toy, recipe("trainer.epochs=3"), tmp_path / "best", cache=cache)
    last = train(toy, recipe("trainer.epochs=3", "trainer.export=last"), tmp_path / "last", cache=cache)
    assert (best.best_epoch, last.best_epoch) == (2, 3)
    assert best.validation["val_auroc"] == 0.9
    assert sha256(best.bundle / "model.safetensors") != sha256(last.bundle / "model.safetensors")


def test_a_threshold_is_refused_with_three_classes(toy: Manifest, recipe: Make, tmp_path: Path) -> None:
    three = replace(toy, labels=Labels((*toy.labels.names, "other")))
    with pytest.raises(UsageError, match=r"decision.threshold is youden, but the data has 3 classes.*Leave"):
        train(three, recipe("decision.threshold=youden"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_early_stopping(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses_of_epochs = iter([0.9, 0.5, 0.6, 0.6, 0.1])
    monkeypatch.setattr(
        "reslink.training.loop.evaluate_validation", lambda *_: validation.ValidationResult(next(losses_of_epochs), 0.5, 1.0)
    )
    result = train(toy, recipe("trainer.epochs=9", "trainer.early_stopping=2"), tmp_path / "run", cache=cache)
    assert (result.epochs, result.best_epoch) == (4, 2)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_in_the_same_step(
    what: str, toy: Manifest, recipe: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted in the seventh step; steps before it are kept, the batch's files named, nothing exported."""
    real, calls = losses.Criterion.__call__, iter(range(100))

    def planted(self: losses.Criterion, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        found = real(self, logits, targets)
        if next(calls) != 6:
            return found
        return found * math.nan if what == "loss" else found + (logits.sum(dim=1) * 0).abs().sqrt()

    monkeypatch.setattr(losses.Criterion, "__call__", planted)
    message = rf"The {what} is not finite in epoch 2, step [23], with these images: (Healthy|Tumor)/\d+.png, .*optimizer.lr"
    with pytest.raises(TrainingError, match=message) as caught:
        train(toy, recipe(), tmp_path / "run", cache=cache)
    assert caught.value.given.count(".png") in (6, 7, 8)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert newest.name.endswith("-step-6")
    assert not (tmp_path / "run" / "bundle").exists()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["code"]) == ("finding", "loss-not-finite")
    monkeypatch.setattr(losses.Criterion, "__call__", real)
    train(toy, recipe(), tmp_path / "run", cache=cache, resume=True)
    train(toy, recipe(), tmp_path / "unharmed", cache=cache)
    weights = [sha256(tmp_path / name / "bundle" / "model.safetensors") for name in ("run", "unharmed")]
    assert weights[0] == weights[1]


OPTIONS = (
    "seed=1",
    "model.drop_rate=0.5",
    "model.head_drop_rate=0.5",
    "model.attention=none",
    "model.residual=false",
    "optimizer.name=adam",
    "optimizer.name=sgd",
    "optimizer.lr=0.01",
    "optimizer.weight_decay=1.0",
    "optimizer.schedule=cosine",
    "optimizer.schedule=constant",
    "optimizer.warmup=0.5",
    "optimizer.clip_norm=0.1",
    "loss.label_smoothing=0.2",
    "loss.imbalance=sampler",
    "loss.imbalance=focal",
    "loss.mixup=0.4",
    "trainer.batch_size=16",
    "trainer.ema=0.5",
    "trainer.epochs=2",
    "augment.enabled=false",
    "attention_supervision.weight=0.5",
)


@pytest.mark.slow
def test_every_option_reaches_the_weights(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path) -> None:
    """Each of them trains to other weights than the recipe without it, and than each other option."""
    found = {}
    data = open_training_data(toy, recipe("data.split_seed=0"), cache, SilentProgress())
    for number, option in enumerate(("seed=0", *OPTIONS)):
        made = recipe("trainer.epochs=1", "diagnostics.images=1", "trainer.export=last", "data.split_seed=0", option)
        result = train(toy, made, tmp_path / str(number), training_data=data)
        found[option] = sha256(result.bundle / "model.safetensors")
    assert len(set(found.values())) == len(found), found


def test_class_weights_reach_the_weights(recipe: Make, marked: Manifest, cache: Path, tmp_path: Path) -> None:
    tumours = [i for i, case in enumerate(marked.cases) if case.label == "Tumor"]
    uneven = marked.subset([i for i in range(len(marked)) if i not in tumours[:14]])
    weights = set()
    for name in ("none", "weights"):
        made = recipe("trainer.epochs=1", f"loss.imbalance={name}")
        weights.add(sha256(train(uneven, made, tmp_path / name, cache=cache).bundle / "model.safetensors"))
    assert len(weights) == 2


def test_layout_and_workers_do_not_change_the_result(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path) -> None:
    for name in ("trainer.channels_last=false", "trainer.precision=bf16", "trainer.deterministic=false"):
        result = train(toy, recipe(name, "trainer.epochs=1"), tmp_path / name, cache=cache)
        assert result.validation["val_loss"] is not None
        environment = json.loads((result.folder / "environment.json").read_text())
        assert environment["precision"] == ("bf16" if "bf16" in name else "no")


def test_bf16_computes_in_bf16_and_keeps_single_precision_weights(
    toy: Manifest, recipe: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    real = Learner._step

    def spy(self: Learner, *args: Any) -> Any:
        handle = self.network.head[-1].register_forward_hook(lambda *a: seen.add(a[2].dtype))
        try:
            return real(self, *args)
        finally:
            handle.remove()

    monkeypatch.setattr(Learner, "_step", spy)
    result = train(toy, recipe("trainer.precision=bf16", "trainer.epochs=1"), tmp_path / "run", cache=cache)
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in Bundle.load(result.bundle).network().parameters()} == {torch.float32}


def test_a_single_logit(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path) -> None:
    made = recipe("model.num_classes=1", "trainer.epochs=2", "optimizer.lr=0.01", "decision.threshold=youden")
    result = train(toy, made, tmp_path / "run", cache=cache)
    bundle = Bundle.load(result.bundle)
    assert bundle.architecture["num_classes"] == 1
    assert result.validation["val_auroc"] is not None
    assert bundle.decision.threshold_source.startswith("Youden index on the validation split (")


def test_unreadable_images_are_named_and_left_out(recipe: Make, toy: Manifest, tmp_path: Path, listener: Any) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(toy.root, data)
    (data / "Tumor" / "000.png").write_bytes((data / "Tumor" / "000.png").read_bytes()[:300])
    result = train(Manifest.open(data), recipe("trainer.epochs=1"), tmp_path / "run", progress=listener)
    assert listener.messages[0].startswith("Tumor/000.png is left out: ")
    assert len((result.folder / "splits.csv").read_text().splitlines()) == 48
    reason = read_json(result.folder / "checkpoints" / "finished.json")["left_out"]["Tumor/000.png"]
    assert listener.messages[0] == f"Tumor/000.png is left out: {reason}"
    for path in (data / "Tumor").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"0 cases of the class 'Tumor' could be read, and 24 could not"):
        train(Manifest.open(data), recipe(), tmp_path / "other")


def test_folds(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path) -> None:
    tests: list[str] = []
    for fold in range(3):
        made = recipe("trainer.epochs=1", "data.folds=3", f"data.fold={fold}")
        result = train(toy, made, tmp_path / str(fold), cache=cache)
        with (result.folder / "splits.csv").open() as stream:
            tests += [row["sample_id"] for row in csv.DictReader(stream) if row["split"] == "test"]
    assert sorted(tests) == sorted(case.name for case in toy.cases)


def test_the_global_state_of_torch_is_left_alone(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    train(toy, recipe("trainer.epochs=1"), tmp_path / "run", cache=cache)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]


def test_a_missing_device(toy: Manifest, recipe: Make, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError, match=r"trainer.device is cuda.*Available devices: cpu.*trainer.device=auto"):
        train(toy, recipe("trainer.device=cuda"), tmp_path / "run")


def test_progress_is_reported(toy: Manifest, recipe: Make, cache: Path, tmp_path: Path, listener: Any) -> None:
    train(toy, recipe(), tmp_path / "run", cache=cache, progress=listener)
    assert listener.labels == ["Reading images", "Epoch 1 of 2", "Epoch 2 of 2"]
    assert listener.open == 0


def last_epoch(run: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "epoch"][-1]


def test_supervision_moves_attention_into_the_head(toy: Manifest, recipe: Make, tmp_path: Path, cache: Path) -> None:
    whole = ("preprocess.isolate_head=false", "trainer.epochs=12", "optimizer.lr=0.01")
    train(toy, recipe(*whole), tmp_path / "free", cache=cache)
    train(toy, recipe(*whole, "attention_supervision.weight=1"), tmp_path / "led", cache=cache)
    free, led = last_epoch(tmp_path / "free"), last_epoch(tmp_path / "led")
    for layer in ("first_attention", "final_attention"):
        assert led[f"{layer}_mass_outside_head"] < 0.7 * free[f"{layer}_mass_outside_head"]


def test_supervision_moves_attention_to_the_lesion(marked: Manifest, recipe: Make, tmp_path: Path, cache: Path) -> None:
    shares = {}
    for weight in (0, 1):
        sets = (f"attention_supervision.weight={weight}", "attention_supervision.target=lesion", "trainer.epochs=15")
        made = recipe(*sets, "optimizer.lr=0.02", "trainer.export=last")
        result = train(marked, made, tmp_path / str(weight), cache=cache)
        network = Bundle.load(result.bundle).network()
        pixels = PixelCache.open(marked, made.preprocess, cache, workers=0)
        with_lesion = [i for i in range(len(pixels)) if pixels.has_mask[i]]
        x = torch.from_numpy(made.preprocess.normalize(pixels.pixels[with_lesion]))
        with record_attention_weights(network) as gates, torch.no_grad():
            network(x)
        masks = pixels.batch_masks(with_lesion)
        assert masks is not None
        shares[weight] = float(losses.attention_share_inside(gates["first_attention"], masks).mean())
    assert shares[1] > 1.5 * shares[0]


@pytest.fixture(scope="module")
def parent(toy_patients: Manifest, recipe: Make, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run on the split of seed 0."""
    made = recipe("trainer.epochs=1", "data.group_by=both", "data.allow_leakage=false")
    return train(toy_patients, made, tmp_path_factory.mktemp("parent") / "run", cache=cache)


def splits_of(run: RunResult) -> dict[str, dict[str, str]]:
    with (run.folder / "splits.csv").open() as stream:
        return {row["sample_id"]: row for row in csv.DictReader(stream)}


def tune(parent: Path, *sets: str) -> Recipe:
    """A recipe of a child that states nothing about the network."""
    common = ("trainer.epochs=1", "trainer.batch_size=8", "trainer.precision=fp32", "trainer.device=cpu", "trainer.workers=0")
    return load_recipe(None, [("init.parent", str(parent)), "trainer.ema=0.9", *common, *sets])


def test_a_child_on_the_split_of_its_parent(
    parent: RunResult, toy_patients: Manifest, cache: Path, tmp_path: Path, listener: Any
) -> None:
    made = tune(parent.folder, "seed=3", "data.split_seed=0", "init.freeze=[stem, first_attention]")
    child = train(toy_patients, made, tmp_path / "child", cache=cache, progress=listener)
    ours, theirs = Bundle.load(child.bundle), Bundle.load(parent.bundle)
    assert ours.preprocess == theirs.preprocess
    assert ours.architecture == theirs.architecture
    weights, before = ours.network().state_dict(), theirs.network().state_dict()
    same = {name for name in weights if torch.equal(weights[name], before[name])}
    assert same == {name for name in weights if name.startswith(("stem.", "first_attention."))}
    assert [ancestor.weights_sha256 for ancestor in ours.lineage] == [theirs.weights_sha256]
    assert "seen_by_ancestors" not in ours.provenance["data"]
    assert "seen-by-ancestors" not in {finding.code for finding in child.findings}
    record = json.loads((child.folder / "init.json").read_text())
    assert (record["new"], record["freeze"], len(record["taken_over"])) == ({}, ["stem", "first_attention"], len(weights))
    assert any(text.startswith("Taken over: ") for text in listener.messages)

    again = train(
        toy_patients,
        load_recipe(child.folder / "config.yaml", [("init.parent", str(parent.bundle))]),
        tmp_path / "2",
        cache=cache,
    )
    assert Bundle.load(again.bundle).weights_sha256 == ours.weights_sha256
    grandchild = train(toy_patients, tune(child.folder, "data.split_seed=0"), tmp_path / "3", cache=cache)
    lineage = [ancestor.weights_sha256 for ancestor in Bundle.load(grandchild.bundle).lineage]
    assert lineage == [ours.weights_sha256, theirs.weights_sha256]


def test_a_child_carries_the_license_of_its_parent(
    parent: RunResult, toy_patients: Manifest, cache: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "licensed"
    made = Bundle.load(parent.bundle)
    replace(made, provenance={**made.provenance, "license": "CC BY-NC-SA 4.0; research only"}).save(
        shipped, made.network().state_dict()
    )
    child = Bundle.load(train(toy_patients, tune(shipped, "data.split_seed=0"), tmp_path / "child", cache=cache).bundle)
    assert child.provenance["license"] == child.lineage[0].license == "CC BY-NC-SA 4.0; research only"


def test_validation_and_test_images_that_the_parent_saw_are_left_out(
    parent: RunResult, toy_patients: Manifest, cache: Path, tmp_path: Path, listener: Any
) -> None:
    child = train(toy_patients, tune(parent.folder, "seed=1"), tmp_path / "child", cache=cache, progress=listener)
    trained = {row["patient_id"] for row in splits_of(parent).values() if row["split"] == "train"}
    marked = train(toy_patients, tune(parent.folder, "seed=1", "data.allow_leakage=true"), tmp_path / "allowed", cache=cache)
    rows, all_rows = splits_of(child), splits_of(marked)
    expected = {n for n, row in all_rows.items() if row["split"] in ("validation", "test") and row["patient_id"] in trained}
    assert expected
    assert {name for name, row in rows.items() if row["split"] == "unused"} == expected
    assert {row["split"] for row in rows.values()} == {"train", "validation", "test", "unused"}
    assert Bundle.load(child.bundle).provenance["data"]["seen_by_ancestors"] == len(expected)
    [finding] = [finding for finding in child.findings if finding.code == "seen-by-ancestors"]
    assert f"{len(expected)} of the validation and test images, or on their patients. They are left out" in finding.message
    assert any(text.startswith("seen-by-ancestors: ") for text in listener.messages)

    assert set(json.loads((marked.folder / "checkpoints" / "finished.json").read_text())["leaked"]) == expected
    assert any("every metric may be too high" in finding.message for finding in marked.findings)


def test_a_parent_in_the_run_folder_is_kept(parent: RunResult, toy_patients: Manifest, cache: Path) -> None:
    with pytest.raises(UsageError, match=r"lies in the run folder.*another run folder.*--resume"):
        train(toy_patients, tune(parent.folder), parent.folder, cache=cache, overwrite=True)
    assert (parent.bundle / "model.safetensors").is_file()


def test_a_wrong_module_costs_no_run(parent: RunResult, toy_patients: Manifest, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(parent.folder, run)
    with pytest.raises(UsageError, match="not a module"):
        train(toy_patients, tune(parent.folder, "init.freeze=[steem]"), run, cache=cache, overwrite=True)
    assert (run / "bundle" / "model.safetensors").is_file()
