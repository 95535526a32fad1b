"""``reslink.cache``: what it decodes, ``train`` and ``evaluate`` do not decode."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.datasets.cache import decode
from reslink.errors import UsageError
from reslink.training.monitoring.progress import SilentProgress


def never(job: Any) -> None:
    pytest.fail(f"{job.path} is decoded again")


class Messages(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def copied(heads: Path, tmp_path: Path) -> Path:
    """The heads, one of which is broken; all of them were written long ago."""
    folder = tmp_path / "heads"
    shutil.copytree(heads, folder)
    broken = images(folder)[3]
    broken.write_bytes(b"\x89PNG no picture")
    for file in folder.rglob("*.png"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return folder


def images(folder: Path) -> list[Path]:
    return [case.path for case in reslink.Manifest.open(folder).cases]


def test_a_training_and_an_evaluation_decode_nothing(
    heads: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = tmp_path / "decoded"
    summary = reslink.cache(heads, decoded, settings=settings)
    assert (summary["n"], summary["decoded"], summary["from_cache"], summary["failed"]) == (28, 28, 0, {})
    assert summary["bytes"] == sum(file.stat().st_size for file in decoded.rglob("*") if file.is_file()) > 28 * 64 * 64
    assert summary["preprocess"]["size"] == 64
    monkeypatch.setattr(decode, "decode_case", never)
    messages = Messages()
    run = reslink.train(heads, tmp_path / "run", epochs=1, settings=settings, cache=decoded, device="cpu", progress=messages)
    assert not any("not in the cache" in text for text in messages.texts)
    out = tmp_path / "out"
    assert reslink.evaluate(run["bundle"], heads, out, device="cpu", cache=decoded, allow_leakage=True)["n"] == 28
    again = reslink.cache(heads, decoded, bundle=run["bundle"])
    assert (again["decoded"], again["from_cache"]) == (0, 28)
    assert again["settings_digest"] == summary["settings_digest"], "a bundle decodes as its training did"
    with pytest.raises(pytest.fail.Exception, match="is decoded again"):
        reslink.cache(heads, decoded, settings=settings | {"preprocess.size": 96})


def test_other_settings_than_those_of_the_cache_are_reported(heads: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    decoded, messages = tmp_path / "decoded", Messages()
    first = reslink.cache(heads, decoded, settings=settings | {"preprocess.size": 96})
    options = {"settings": settings, "epochs": 1, "device": "cpu", "progress": messages}
    reslink.train(heads, tmp_path / "run", cache=decoded, **options)
    assert f"28 of 28 images were not in the cache {decoded} and were decoded." in messages.texts
    assert reslink.cache(heads, decoded, settings=settings)["settings_digest"] != first["settings_digest"]
    messages.texts.clear()
    reslink.train(heads, tmp_path / "other", **options)
    assert not any("not in the cache" in text for text in messages.texts), "a run with its own cache decodes silently"


def test_a_network_that_is_fine_tuned_gives_its_preprocessing(trained: dict[str, Any], heads: Path, tmp_path: Path) -> None:
    summary = reslink.cache(heads, tmp_path / "decoded", init=trained["bundle"])
    assert summary["preprocess"]["size"] == 64
    assert summary["settings_digest"] == reslink.cache(heads, tmp_path / "decoded", bundle=trained["bundle"])["settings_digest"]


def test_an_interrupted_call_resumes(
    copied: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = decode.decode_case, []

    def interrupted(job: Any) -> Any:
        seen.append(job.path)
        if len(seen) == 11:
            raise KeyboardInterrupt
        return original(job)

    decoded = tmp_path / "decoded"
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_case", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"kept in .*decoded; run the same command again"):
            reslink.cache(copied, decoded, settings=settings)
    summary = reslink.cache(copied, decoded, settings=settings)
    assert (summary["decoded"], summary["from_cache"]) == (18, 9), "one of the first ten is broken"
    [(name, reason)] = summary["failed"].items()
    assert name == images(copied)[3].relative_to(copied).as_posix()
    assert reason.startswith(f"{name} is not an image")
    again = reslink.cache(copied, decoded, settings=settings)
    assert (again["decoded"], again["from_cache"], again["failed"]) == (0, 27, summary["failed"])


def test_verify_finds_a_file_that_changed_without_its_size_and_time(
    copied: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    decoded = tmp_path / "decoded"
    reslink.cache(copied, decoded, settings=settings)
    first, second = images(copied)[:2]
    before = first.stat()
    shutil.copy(second, first)
    with first.open("ab") as stream:  # what follows the last chunk of a PNG is no part of the picture
        stream.write(bytes(max(0, before.st_size - second.stat().st_size)))
    with first.open("r+b") as stream:
        stream.truncate(max(before.st_size, second.stat().st_size))
    if first.stat().st_size != before.st_size:
        pytest.fail("the test needs a second image that is not larger than the first")
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reslink.cache(copied, decoded, settings=settings)["decoded"] == 0
    assert reslink.cache(copied, decoded, settings=settings, verify=True)["decoded"] == 1
    assert reslink.cache(copied, decoded, settings=settings)["decoded"] == 0, "the new hash is remembered"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"case": "series"}, "bundle=… was given with case=…"),
        ({"settings": {"preprocess.size": 64}}, "bundle=… was given with --set"),
        ({"map": {"Tumor": "x"}}, "bundle=… was given with map=…"),
        ({"init": "ct"}, "bundle=… was given with init=…"),
    ],
)
def test_a_bundle_excludes_the_options_of_a_training(
    trained: dict[str, Any], heads: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        reslink.cache(heads, tmp_path / "decoded", bundle=trained["bundle"], **options)
    assert not (tmp_path / "decoded").exists()


def test_a_cache_among_the_class_folders_is_refused(tmp_path: Path, image: Path) -> None:
    for name in ("Healthy", "Tumor"):
        (tmp_path / name).mkdir()
        for copy in "ab":
            shutil.copy(image, tmp_path / name / f"{copy}.png")
    with pytest.raises(UsageError, match=r"The folder .*Tumor/decoded of out=… is inside the data set"):
        reslink.cache(tmp_path, tmp_path / "Tumor" / "decoded")
