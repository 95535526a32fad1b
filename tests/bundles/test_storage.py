"""The folder of a bundle is found, and replaced as a whole."""

import dataclasses
import os
from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import FittedOn
from reslink.bundles.decision.decision import Decision
from reslink.bundles.storage import bundle_name
from reslink.errors import BundleError, StorageError, UsageError


def test_a_run_is_accepted_for_its_bundle(saved, tmp_path):
    assert Bundle.load(tmp_path).weights_sha256 == saved.weights_sha256


def calibrated(bundle, saved, state, folder):
    fitted_on = FittedOn(
        digest="ab" * 32,
        n_images=8,
        n_groups=8,
        split=None,
        counts={"Healthy": 4, "Tumor": 4},
        method="temperature",
        operating_point="youden",
    )
    dataclasses.replace(bundle, decision=Decision(threshold=0.3, fitted_on=fitted_on)).save(folder, state)


def test_a_run_stands_for_its_calibrated_bundle_and_it_is_said(bundle, saved, network, tmp_path, caplog):
    calibrated(bundle, saved, network.state_dict(), tmp_path / "calibrated")
    assert Bundle.load(tmp_path).decision.threshold == 0.3
    assert f"{tmp_path} stands for its calibrated bundle, {tmp_path / 'calibrated'}" in caplog.text
    assert Bundle.load(saved.folder).decision.threshold != 0.3


def test_several_calibrated_bundles_are_named(bundle, saved, network, tmp_path):
    for name in ("first", "second"):
        calibrated(bundle, saved, network.state_dict(), tmp_path / name)
    with pytest.raises(BundleError, match=r"holds 2 calibrated bundles: first, second.*Give the folder of one of them"):
        Bundle.load(tmp_path)


def test_a_bundle_of_other_weights_inside_a_run_is_not_taken(bundle, saved, network, tmp_path, caplog):
    calibrated(bundle, saved, {name: value * 2 for name, value in network.state_dict().items()}, tmp_path / "other")
    assert Bundle.load(tmp_path).folder == saved.folder
    assert not caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere does not exist.*Check the path"),
        ("bundle/bundle", r"bundle/bundle does not exist.*Did you mean .*[^/]/bundle\?"),
        ("bundle/bundle.json", r"is a file.*Give the folder instead: .*bundle\."),
        ("empty", "holds no bundle.json.*Give a folder that reslink train wrote"),
        ("above", "holds no bundle.json.*Did you mean .*above/first"),
        ("run", "is not finished.*--resume"),
    ],
)
def test_other_folders_are_refused(saved, tmp_path, place, message):
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


def test_a_bundle_replaces_an_older_one_and_nothing_else(bundle, saved, network, tmp_path):
    other = dataclasses.replace(bundle, decision=Decision(threshold=0.3))
    other.save(saved.folder, network.state_dict())
    assert Bundle.load(saved.folder).decision.threshold == 0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        bundle.save(tmp_path / "thesis", network.state_dict())
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_full_disk_leaves_the_older_bundle_intact(bundle, saved, network, tmp_path, monkeypatch, fails_at):
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


@pytest.mark.parametrize(
    ("given", "expected"), [("bundle", "ward_7"), ("other", "other"), (".", "ward_7"), ("other/../bundle", "ward_7")]
)
def test_the_name_of_a_bundle_holds_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str) -> None:
    run = tmp_path / "ward_7"
    for name in ("bundle", "other"):
        (run / name).mkdir(parents=True)
    monkeypatch.chdir(run / "bundle" if given == "." else run)
    assert bundle_name(Path(given)) == expected
