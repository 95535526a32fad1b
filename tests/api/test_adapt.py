"""``reslink.adapt``: a model whose images became darker at another hospital is adapted to patients of that hospital."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from typer.testing import CliRunner

import reslink
from reslink.api.adapt import Plan, check_halves, draw_halves
from reslink.api.onnx_model import add_onnx_model
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import TrainingImages
from reslink.cli.main import app
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import CheckFailedError, UsageError
from reslink.evaluation.calibrate import calibrate_bundle
from reslink.evaluation.cases import RunOptions
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.evaluation.fitting import DecisionOptions
from reslink.export.onnx import check_parity
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.training import adaptation
from reslink.training.monitoring.progress import SilentProgress

LABELS = Labels(("Healthy", "Tumor"))
PREPROCESS = Preprocess(size=64, channels=1)
N_TRAIN, N_LOCAL, N_TEST = 80, 80, 60
EVALUATED = {"data": "B", "date": "2026-11-30", "sha256": "ab" * 32, "n": 60, "n_refused": 0, "n_groups": 60, "seen": False}
SHIPPED = {
    "title": "Spots",
    "task": "heads with a spot from heads without",
    "usage_notes": "Its heads are drawn.",
    "modality": "drawings",
    "source": {"name": "a", "title": "A", "page": "https://a.example", "license": "CC BY 4.0", "known_issues": []},
    "limitations": ["It is small."],
    "reproduce": ["reslink train DATA --out RUN"],
    "ledger": [EVALUATED | {"auroc": 0.7, "accuracy": 0.6, "ece": 0.1, "coverage": 1.0, "silent_errors": 0.4}],
}
"""The description of the parent, with an evaluation at another hospital."""


def write_heads(root: Path, n: int, seed: int, *, dark: bool) -> Path:
    """Writes pictures of heads with a skull, one per patient, and a bright spot if the class is Tumor.

    At the other hospital (``dark``) everything inside the skull is darker.
    """
    root.mkdir()
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    rows = []
    for i in range(n):
        r = np.hypot(y - 48 + rng.normal(), (x - 48) * rng.uniform(1.0, 1.2))
        inside = 90 + np.kron(rng.integers(0, 30, (12, 12)), np.ones((8, 8)))
        spot = np.hypot(y - rng.integers(35, 60), x - rng.integers(35, 60)) < rng.uniform(6, 10)
        inside = (inside + spot * 100 * (i % 2)) * (0.7 if dark else 1)
        grey = (r < 40) * inside + (abs(r - 42) < 3) * 250
        Picture.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        rows.append([f"{i:02d}.png", LABELS.names[i % 2], f"p{i}"])
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id"], *rows])
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("home") / "home", N_TRAIN, 1, dark=False)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("local") / "local", N_LOCAL, 2, dark=True)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other patients of the local hospital."""
    return write_heads(tmp_path_factory.mktemp("others") / "others", N_TEST, 3, dark=True)


@pytest.fixture(scope="module")
def parent(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that was trained on the pictures of its own hospital."""
    images = [read_image(home / f"{i:02d}.png") for i in range(N_TRAIN)]
    x = torch.from_numpy(PREPROCESS.normalize(np.stack([PREPROCESS.pixels(image) for image in images])))
    y = torch.arange(N_TRAIN) % 2
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1, drop_rate=0, head_drop_rate=0)
    network = build_network(config, seed=1).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    order = np.random.default_rng(0)
    for _ in range(60):
        rows = order.choice(N_TRAIN, 20, replace=False)
        optimizer.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    fingerprints = make_fingerprints(np.stack([make_thumbnail(image) for image in images]))
    bundle = Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        PREPROCESS,
        LABELS,
        provenance={"license": "CC BY 4.0", "data": {"digest": "0" * 64}, "recipe": {"seed": 1}, "pretrained": SHIPPED},
        training_images=TrainingImages(fingerprints, np.zeros((0, 32), np.uint8)),
    )
    return bundle.save(tmp_path_factory.mktemp("parent") / "bundle", network.eval().state_dict()).folder or Path()


Evaluate = Callable[[str | Path], dict[str, Any]]


@pytest.fixture(scope="module")
def evaluate(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluate:
    """Evaluates a bundle on the other patients of the local hospital."""
    folder = tmp_path_factory.mktemp("evaluated")

    def run(bundle: str | Path) -> dict[str, Any]:
        options = EvaluationOptions(device="cpu", localization=False, cache_folder=folder / "cache")
        return evaluate_bundle(bundle, Manifest.open(others), folder / "out", options)

    return run


@pytest.fixture(scope="module")
def adapted(parent: Path, local: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Returns the result for some parts; each is made once."""
    folder = tmp_path_factory.mktemp("adapted")
    made: dict[str, dict[str, Any]] = {}

    def make(**parts: bool) -> dict[str, Any]:
        name = "-".join(["plain", *parts])
        if name not in made:
            made[name] = reslink.adapt(parent, local, folder / name, device="cpu", **parts)  # type: ignore[arg-type]
        return made[name]

    return make


def metric(evaluation: dict[str, Any], name: str) -> float:
    return float(evaluation["metrics"][name]["estimate"])


@pytest.mark.parametrize("part", ["batch_norm", "head"])
def test_it_improves_the_answers_for_other_patients(part: str, adapted: Any, evaluate: Evaluate, parent: Path) -> None:
    before, after = evaluate(parent), evaluate(adapted(**{part: True})["bundle"])
    assert metric(before, "accuracy") < 0.6
    assert metric(after, "accuracy") > metric(before, "accuracy") + 0.15
    if part == "batch_norm":  # a dense layer on the same features orders these images alike
        assert metric(after, "auroc") > metric(before, "auroc") + 0.02
    assert after["n"] == before["n"] == N_TEST, "none of the other patients is left out"
    measured = adapted(**{part: True})["cross_fit"]["adaptation"]
    assert measured["accuracy"]["after"]["estimate"] > measured["accuracy"]["before"]["estimate"] + 0.1
    assert measured["auroc"]["before"]["n"] == N_LOCAL / 2


def test_it_does_not_if_the_network_stays_as_it_was(
    local: Path, parent: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "adapt_batch_norm", lambda *_: 0.0)
    made = reslink.adapt(parent, local, tmp_path / "out", batch_norm=True, device="cpu")
    assert metric(evaluate(made["bundle"]), "accuracy") == metric(evaluate(parent), "accuracy")
    measured = made["cross_fit"]["adaptation"]["accuracy"]
    assert measured["after"]["estimate"] == measured["before"]["estimate"]


def test_the_new_bundle_is_a_child_of_the_parent(adapted: Any, parent: Path, local: Path) -> None:
    result = adapted(batch_norm=True)
    before, child = Bundle.load(parent), Bundle.load(result["bundle"])
    assert child.weights_sha256 != before.weights_sha256
    assert [ancestor.weights_sha256 for ancestor in child.lineage] == [before.weights_sha256]
    assert (len(child.lineage[0].training_images or ()), child.lineage[0].data_digest) == (N_TRAIN, "0" * 64)
    assert (len(child.training_images or ()), len(child.calibration_images or ())) == (N_LOCAL / 2, N_LOCAL / 2)
    record = child.provenance["adapted"]
    assert record == result["adapted"]
    assert (record["parent"], record["images"], record["groups"]) == (before.weights_sha256, N_LOCAL / 2, N_LOCAL / 2)
    assert (record["parts"], record["seed"]) == (["batch_norm"], 0)
    assert record["batch_norm_weight"] == pytest.approx(40 / (40 + 64))
    assert child.provenance["license"] == "CC BY 4.0"
    assert child.provenance["data"] == {"digest": record["digest"], "images": {"Healthy": 20, "Tumor": 20}}
    assert "recipe" not in child.provenance, "it is that of the parent"
    assert (len(before.ledger), child.ledger) == (1, []), "its evaluations are those of other weights"
    assert child.provenance["pretrained"]["limitations"] == ["It is small."]
    card = (Path(result["bundle"]) / "MODEL_CARD.md").read_text()
    assert "Adapted to other images:" in card
    assert "License: CC BY 4.0." in card
    with pytest.raises(CheckFailedError, match="All 80 images overlap with the training or calibration data"):
        reslink.evaluate(child.folder or "", local, Path(result["bundle"]).parent / "all", device="cpu")


def test_only_the_decision_is_fitted_without_a_part(adapted: Any, parent: Path, local: Path, tmp_path: Path) -> None:
    result = adapted()
    options = RunOptions(device="cpu")
    calibrated = calibrate_bundle(parent, Manifest.open(local), tmp_path / "calibrated", options=options)
    assert result == calibrated | {"bundle": result["bundle"], "adapted": None}
    assert (result["n"], "adaptation" in result["cross_fit"]) == (N_LOCAL, False)
    assert Bundle.load(result["bundle"]).weights_sha256 == Bundle.load(parent).weights_sha256


def test_the_second_half_does_not_change_the_network(
    adapted: Any, parent: Path, local: Path, home: Path, tmp_path: Path
) -> None:
    """Its images are changed; images that the parent was trained on are left out, so they change nothing either."""
    names = [f"{i:02d}.png" for i in range(N_LOCAL)]
    is_first = draw_halves(list(LABELS.names) * (N_LOCAL // 2), names, 0)
    assert is_first.sum() == N_LOCAL / 2
    changed = tmp_path / "changed"
    shutil.copytree(local, changed)
    for i in np.flatnonzero(~is_first):
        picture = np.asarray(Picture.open(local / names[i]))
        Picture.fromarray((picture * 0.5).astype(np.uint8)).save(changed / names[i])
    with (changed / "manifest.csv").open("a", newline="") as stream:
        for i in range(3):
            shutil.copy(home / f"{i:02d}.png", changed / f"home{i}.png")
            csv.writer(stream).writerow([f"home{i}.png", LABELS.names[i % 2], f"home{i}"])
    messages: list[str] = []
    progress = SilentProgress()
    progress.message = messages.append  # type: ignore[method-assign]
    result = reslink.adapt(parent, changed, tmp_path / "out", head=True, device="cpu", progress=progress)
    same = adapted(head=True)
    assert Bundle.load(result["bundle"]).weights_sha256 == Bundle.load(same["bundle"]).weights_sha256
    assert result["decision"]["temperature"] != same["decision"]["temperature"]
    assert sorted(one["path"] for one in result["excluded"]) == [f"home{i}.png" for i in range(3)]
    assert (
        "3 images overlap with the training data and are left out. 40 images in 40 groups adapt the network, " in messages[-2]
    )


def test_the_onnx_model_is_made_again(parent: Path, local: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    shutil.copytree(parent, tmp_path / "parent")
    with_graph = add_onnx_model(Bundle.load(tmp_path / "parent"))
    assert with_graph.onnx_model is not None
    result = reslink.adapt(tmp_path / "parent", local, tmp_path / "out", head=True, device="cpu")
    child = Bundle.load(result["bundle"])
    assert child.onnx_model is not None
    assert child.onnx_model.source != with_graph.onnx_model.source
    assert check_parity(child, child.onnx()).logits < 1e-3


def test_halves_have_the_same_classes_and_keep_groups_whole() -> None:
    groups = [f"g{i // 2}" for i in range(60)]
    labels = ["Healthy" if i < 20 or i % 2 else "Tumor" for i in range(60)]  # 10 healthy patients, 20 with both
    first = draw_halves(labels, groups, 0)
    assert all(first[i] == first[i + 1] for i in range(0, 60, 2))
    assert (first[:20].sum(), first[20:].sum()) == (10, 20)
    assert (draw_halves(labels, groups, 0) == first).all()
    assert (draw_halves(labels, groups, 1) != first).any()
    order = np.random.default_rng(0).permutation(60)
    assert (draw_halves([labels[i] for i in order], [groups[i] for i in order], 0) == first[order]).all()


def test_too_few_groups_are_refused_with_their_counts(parent: Path, local: Path, tmp_path: Path) -> None:
    few = Manifest.open(local).subset(range(15))
    with pytest.raises(
        UsageError, match=r"gives 8 groups \(Healthy 4, Tumor 4 images\) to adapt .* 7 groups .*at least 10"
    ) as error:
        reslink.adapt(parent, few, tmp_path / "out", head=True, device="cpu")
    assert "leave batch_norm=True and head=True out" in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    labels = ["Tumor", *["Healthy"] * 39]
    groups = [str(i) for i in range(40)]
    with pytest.raises(UsageError, match=r"Tumor 0 images\).*every class"):
        check_halves(labels, groups, (np.arange(20), np.arange(20, 40)), LABELS.names)


def test_series_and_several_labels_are_refused(parent: Path) -> None:
    loaded = Bundle.load(parent)
    for changes, message in (
        ({"architecture": {**loaded.architecture, "case": "series"}}, r"--batch-norm or --head does not support .* series"),
        (
            {"labels": Labels(("a", "b"), exclusive=False), "decision": Decision.default(2, exclusive=False)},
            r"--batch-norm or --head is not possible .* \(a, b\)",
        ),
    ):
        plan = Plan(replace(loaded, **changes), Path("out"), ("head",), 0, DecisionOptions())  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=message + ".*out to fit the decision only"):
            plan.check()


def test_bad_options_are_found_first(parent: Path, local: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    for options, message in (
        ({"out": tmp_path}, "bundle"),
        ({"operating_point": "best"}, "best"),
        ({"coverage": 2.0}, r"The coverage is 2.*coverage='0\.95'"),
        ({"split": "test"}, "No case is in the split 'test'"),
        ({"device": "gpu"}, "gpu"),
        ({"per_source": True, "batch_norm": True}, "is set, and the images state no source.*columns"),
    ):
        with pytest.raises(UsageError, match=message):
            reslink.adapt(parent, local, **{"out": tmp_path / "out", **options})  # type: ignore[arg-type]


def test_the_command_prints_what_was_adapted(parent: Path, local: Path, tmp_path: Path) -> None:
    command = ["adapt", str(parent), str(local), "--out", str(tmp_path / "out"), "--batch-norm", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert "40 images in 40 groups adapt the network, 40 images in 40 groups fit the decision" in result.stderr
    assert "Adapted on 40 images in 40 groups. BatchNorm: these images have the weight 0.38." in result.stderr
    for line in ("accuracy before\t", "accuracy after\t", "AUROC before\t", "ECE after\t", "images\t40 in 40 groups"):
        assert line in result.stdout
