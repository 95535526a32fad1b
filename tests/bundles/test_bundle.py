"""Bundles: what is written is read again, and nothing else is."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from reslink.bundles.bundle import SCHEMA_VERSION, Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, StorageError, UsageError
from reslink.files import sha256
from reslink.labels import Labels


def rewrite(folder: Path, change) -> None:
    """Changes bundle.json on the disk."""
    value = json.loads((folder / "bundle.json").read_text())
    change(value)
    (folder / "bundle.json").write_text(json.dumps(value))


def replace_weights(folder: Path, content: bytes) -> None:
    """Puts other weights in place, with a checksum that fits."""
    (folder / "model.safetensors").write_bytes(content)
    rewrite(folder, lambda value: value["weights"].update(sha256=sha256(content), bytes=len(content)))


def test_what_is_saved_is_loaded(saved, network):
    loaded = Bundle.load(saved.folder)
    assert loaded == saved
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = loaded.network()
    assert not found.training
    with torch.no_grad():
        assert torch.equal(found(x), network(x))


def test_building_the_network_leaves_the_random_state_alone(saved):
    before = torch.random.get_rng_state()
    saved.network()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reading_a_bundle_imports_no_torch(saved):
    code = (
        "import sys; from reslink.bundles.bundle import Bundle; b = Bundle.load(sys.argv[1]);"
        "b.decision.probabilities([[0.0, 1.0]]);"
        "assert b.labels.positive == 'Tumor'; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.folder)], check=True)


def test_equal_weights_give_equal_bytes_in_any_order_and_form(bundle, network, tmp_path):
    state = network.state_dict()
    arrays = {name: np.array(value.numpy(), order="F") for name, value in reversed(state.items())}
    first = bundle.save(tmp_path / "a", state)
    second = bundle.save(tmp_path / "elsewhere" / "b", arrays)
    content = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert content == (tmp_path / "elsewhere" / "b" / "model.safetensors").read_bytes()
    assert first.weights_sha256 == second.weights_sha256 == sha256(content)
    with safe_open(tmp_path / "a" / "model.safetensors", "np") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_half_precision_stays_and_gives_the_network_of_the_rounded_weights(bundle, saved, network, tmp_path):
    state = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    half = bundle.save(tmp_path / "half", state)
    sizes = [(one.folder / "model.safetensors").stat().st_size for one in (half, saved)]
    assert sizes[0] < 0.75 * sizes[1]
    for name, value in half.network().state_dict().items():
        assert value.dtype == network.state_dict()[name].dtype
        assert torch.equal(value, state[name].to(value.dtype))


def test_bfloat16_and_float64_are_stored_as_float32(bundle, network, tmp_path):
    rounded = {name: value.bfloat16() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    stored = bundle.save(tmp_path / "rounded", rounded)
    wide = bundle.save(tmp_path / "wide", {name: value.double() for name, value in rounded.items()})
    with safe_open(stored.folder / "model.safetensors", "pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert kinds <= {"torch.float32", "torch.int64"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(stored.network().state_dict().values(), wide.network().state_dict().values(), strict=True)
    )


def test_a_run_stands_for_the_bundle_inside(saved, tmp_path):
    assert Bundle.load(tmp_path).weights_sha256 == saved.weights_sha256


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("bundle/bundle.json", r"is a file.*Give the folder instead: .*bundle\."),
        ("empty", "holds no bundle.json.*Give a folder that reslink train wrote"),
        ("above", "holds no bundle.json.*Did you mean .*above/first"),
        ("run", "has not ended.*--resume"),
    ],
)
def test_what_is_no_bundle_is_refused(saved, tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "above").mkdir()
    (saved.folder.parent / "above" / "first").symlink_to(saved.folder)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(tmp_path / place)
    assert caught.value.exit_code == 2


def test_missing_weights(saved):
    (saved.folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"holds no model\.safetensors"):
        Bundle.load(saved.folder)


def test_a_newer_bundle_names_both_versions(saved):
    rewrite(saved.folder, lambda value: value.update(schema_version=7, something="new"))
    with pytest.raises(BundleError, match=rf"schema version 7\. .*up to schema version {SCHEMA_VERSION}\. Update"):
        Bundle.load(saved.folder)


@pytest.mark.parametrize("version", [None, "1", 0, True, 1.0])
def test_a_bundle_without_a_version_is_refused(saved, version):
    rewrite(saved.folder, lambda value: value.update(schema_version=version))
    with pytest.raises(BundleError, match="no valid schema_version"):
        Bundle.load(saved.folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.pop("preprocess"), "preprocess: Field required"),
        (lambda v: v["preprocess"].update(size="224"), r"preprocess\.size"),
        (lambda v: v["preprocess"].update(std=0.0), r"preprocess\.std"),
        (lambda v: v["decision"].update(treshold=0.4), r"decision\.treshold"),
        (lambda v: v["weights"].update(sha256="short"), r"weights\.sha256"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v.update(labels=["Healthy", "healthy"]), "same name but for case"),
        (lambda v: v.update(labels=["a", "b", "c"], decision={"threshold": None}), r"architecture\.num_classes is 2.*3 labels"),
        (lambda v: v["preprocess"].update(channels=3), r"in_channels is 1, but preprocess\.channels is 3"),
    ],
)
def test_a_field_that_does_not_fit_is_named(saved, change, field):
    rewrite(saved.folder, change)
    with pytest.raises(UsageError, match=field):
        Bundle.load(saved.folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"schema_version": NaN}', "[" * 100_000, "x" * (5 << 20), "\udcff"])
def test_a_damaged_json_is_refused(saved, text):
    (saved.folder / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(saved.folder)


def test_every_flipped_bit_of_the_weights_is_seen(saved, rng):
    path = saved.folder / "model.safetensors"
    content = path.read_bytes()
    for place in rng.integers(0, len(content) * 8, 200):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(BundleError, match=r"SHA-256|weight file"):
            Bundle.load(saved.folder)


def test_weights_that_change_after_loading_are_seen(saved):
    loaded = Bundle.load(saved.folder)
    path = saved.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="SHA-256"):
        loaded.network()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 64, b"\x80\x02}q\x00.", (2 << 20).to_bytes(8, "little") + b"{}" * (1 << 20)],
    ids=["empty", "zeros", "ones", "pickle", "long header"],
)
def test_files_of_other_kinds_are_refused_before_they_are_read(saved, content):
    replace_weights(saved.folder, content) if len(content) >= 8 else (saved.folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="not a weight file"):
        Bundle.load(saved.folder)


def test_a_header_that_lies_is_refused(saved):
    header = b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'
    replace_weights(saved.folder, len(header).to_bytes(8, "little") + header)
    with pytest.raises(BundleError, match="cannot be loaded"):
        Bundle.load(saved.folder).network()


def test_weights_of_another_architecture_are_named(saved):
    rewrite(saved.folder, lambda value: value["architecture"].update(stem_dim=16, dims=[16, 8]))
    with pytest.raises(BundleError, match=r"of another shape: .*stages\.0\.0\.norm\.bias \(8,\) for \(16,\)"):
        Bundle.load(saved.folder).network()


def test_an_architecture_that_cannot_be_built_is_named(saved):
    rewrite(saved.folder, lambda value: value["architecture"].update(area_size=0))
    with pytest.raises(BundleError, match="area_size: Input should be greater"):
        Bundle.load(saved.folder).network()


def test_saving_names_the_weights_that_do_not_fit(bundle, network, tmp_path):
    state = dict(network.state_dict())
    state["head.1.weights"] = state.pop("head.1.weight")
    with pytest.raises(BundleError, match=r"missing: head\.1\.weight; unknown: head\.1\.weights"):
        bundle.save(tmp_path / "b", state)
    assert not any(tmp_path.iterdir())


def test_saving_refuses_weights_that_are_not_finite(bundle, network, tmp_path):
    state = network.state_dict()
    state["head.1.bias"][0] = float("nan")
    with pytest.raises(BundleError, match=r"not finite in head\.1\.bias\."):
        bundle.save(tmp_path / "b", state)


def test_loading_refuses_weights_that_are_not_finite(saved, network):
    from reslink.bundles import weights

    state = network.state_dict()
    state["head.1.bias"][0] = float("inf")
    replace_weights(saved.folder, weights.to_bytes(weights.to_arrays(state)))
    with pytest.raises(BundleError, match=r"not finite in head\.1\.bias\."):
        Bundle.load(saved.folder).network()


def test_a_bundle_replaces_an_older_one_and_nothing_else(bundle, saved, network, tmp_path):
    other = dataclasses.replace(bundle, decision=Decision(threshold=0.3))
    other.save(saved.folder, network.state_dict())
    assert Bundle.load(saved.folder).decision.threshold == 0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        bundle.save(tmp_path / "thesis", network.state_dict())
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_full_disk_leaves_the_older_bundle_whole(bundle, saved, network, tmp_path, monkeypatch, fails_at):
    calls = 0
    fsync = os.fsync

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == 2 * fails_at - 1:  # each file: fsync of it, fsync of its folder
            raise OSError(28, "No space left on device")
        return fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    other = dataclasses.replace(bundle, decision=Decision(threshold=0.3))
    with pytest.raises(StorageError, match="No space left on device"):
        other.save(saved.folder, network.state_dict())
    monkeypatch.undo()
    assert Bundle.load(saved.folder) == saved
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_rename_that_fails_puts_the_older_bundle_back(bundle, saved, network, tmp_path, monkeypatch):
    rename = Path.rename

    def failing(self, target):
        if self.suffix == ".part":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError, match="Permission denied"):
        bundle.save(saved.folder, network.state_dict())
    monkeypatch.undo()
    assert Bundle.load(saved.folder) == saved


def test_a_single_logit_fits_two_labels_only(bundle):
    single = {**bundle.architecture, "num_classes": 1}
    assert dataclasses.replace(bundle, architecture=single).labels.binary
    with pytest.raises(BundleError, match=r"num_classes is 1, but there are 3 labels"):
        dataclasses.replace(bundle, architecture=single, labels=Labels(("a", "b", "c")), decision=Decision(threshold=None))


def test_a_threshold_does_not_fit_three_labels(bundle):
    three = {**bundle.architecture, "num_classes": 3}
    with pytest.raises(UsageError, match="for 3 classes"):
        dataclasses.replace(bundle, architecture=three, labels=Labels(("a", "b", "c")))


def test_metrics_can_be_added_later(saved):
    before = (saved.folder / "model.safetensors").read_bytes()
    figures = {"n": 3, "metrics": {"accuracy": {"estimate": 0.5, "ci_low": 0.1, "ci_high": 0.9, "method": "x", "n": 3}}}
    saved.with_metrics({**figures, "failed": {"Jane Doe.png": "is not whole"}})
    assert Bundle.load(saved.folder).metrics == figures
    assert (saved.folder / "model.safetensors").read_bytes() == before
    assert "0.100 to 0.900" in (saved.folder / "MODEL_CARD.md").read_text()


def test_metrics_that_are_not_numbers_are_refused(saved):
    with pytest.raises(BundleError, match="cannot be stored"):
        saved.with_metrics({"metrics": {"auroc": float("nan")}})
    assert Bundle.load(saved.folder) == saved


def test_an_unsaved_bundle_has_no_network(bundle):
    with pytest.raises(BundleError, match="no weights yet"):
        bundle.network()
