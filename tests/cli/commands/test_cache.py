"""``reslink cache``: the counts, the exit code, and the command that uses the cache."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.commands.cache import _next_command
from reslink.cli.main import app
from reslink.datasets.cache import decode

SETTINGS = ("preprocess.size=64", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]", "trainer.epochs=1")
SETS = [word for setting in SETTINGS for word in ("--set", setting)]


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def table(write_toy_heads: Any, tmp_path: Path) -> Path:
    (tmp_path / "toy heads").mkdir()
    return Path(write_toy_heads(tmp_path / "toy heads", 20)) / "manifest.csv"


def test_the_printed_command_uses_the_cache_and_decodes_nothing(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("cache", table.relative_to(tmp_path), "--out", "decoded", "--map", "Healthy=Normal", "--unit", "gray", *SETS)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[:3] == [["decoded", "40"], ["taken from the cache", "0"], ["failed", "0"]]
    assert rows[3][0] == "size of decoded"
    assert rows[3][1].endswith(" MB")
    assert len(rows[4][1]) == 16
    [command] = [line for line in done.stderr.splitlines() if line.startswith("use it with: ")]
    program, *printed = shlex.split(command.removeprefix("use it with: "))
    assert (program, printed[:2]) == ("reslink", ["train", "toy heads/manifest.csv"])
    monkeypatch.setattr(decode, "decode_case", lambda job: pytest.fail(f"{job.path} is decoded again"))
    trained = invoke(*printed)
    assert trained.exit_code == 0, trained.stderr
    again = json.loads(invoke(*words, "--json").stdout)
    assert (again["decoded"], again["from_cache"]) == (0, 40)


def test_an_image_that_cannot_be_read_is_named_and_the_exit_code_is_1(table: Path, tmp_path: Path) -> None:
    (table.parent / "007.png").write_bytes(b"\x89PNG no picture")
    done = invoke("cache", table, "--out", tmp_path / "decoded", *SETS)
    assert done.exit_code == 1
    assert "007.png failed: 007.png is not an image in a supported format" in done.stderr
    assert done.stdout.splitlines()[:3] == ["decoded\t39", "taken from the cache\t0", "failed\t1"]


def test_a_bundle_gives_the_command_of_an_evaluation(table: Path, built_zoo: Path, tmp_path: Path) -> None:
    done = invoke("cache", table, "--out", tmp_path / "decoded", "--bundle", built_zoo / "ct")
    assert done.exit_code == 0, done.output
    expected = shlex.join(map(str, ("evaluate", built_zoo / "ct", table, "--out", "DIR", "--cache", tmp_path / "decoded")))
    assert f"use it with: reslink {expected}" in done.stderr


def test_the_printed_command_has_the_url_that_was_given() -> None:
    options = {"--root": Path("s3://heads/ct"), "--set": ["preprocess.size=64"], "--unit": None}
    expected = "reslink train t.csv --out RUN --root s3://heads/ct --set preprocess.size=64 --cache decoded"
    assert _next_command([Path("t.csv")], Path("decoded"), None, options) == expected


def test_torch_is_not_imported(table: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from reslink.cli.main import make_app; "
        "make_app('cache')(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    words = ("cache", table, "--out", tmp_path / "decoded", *SETS)
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True, capture_output=True)
    assert list((tmp_path / "decoded" / "shards").glob("*/rows"))


def test_an_address_of_no_cluster_is_refused_before_the_data_set_is_opened(tmp_path: Path) -> None:
    done = invoke("cache", tmp_path / "none", "--out", tmp_path / "decoded", "--on", "nowhere")
    assert done.exit_code == 2
    assert "'nowhere' is not the address of a cluster" in done.stderr
