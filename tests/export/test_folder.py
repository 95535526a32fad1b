"""The folder of an export: written as a whole, and only if the parity check passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.errors import CheckFailedError, UsageError
from reslink.export import parity
from reslink.export.folder import FORMATS, export
from reslink.export.parity import Inputs


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> str:
    """The format that is written quickest, with wrong probabilities."""
    real = FORMATS["hf"].exporter.read_back

    def faulty(bundle: Bundle, place: Path):
        for name, runner in real(bundle, place):

            def call(fed: parity.Arrays, runner: parity.Runner = runner) -> parity.Arrays:
                found = runner.call(fed)
                return found | {"probabilities": found["probabilities"] + 2e-5}

            yield name, replace(runner, call=call)

    monkeypatch.setattr(FORMATS["hf"].exporter, "read_back", faulty)
    return "hf"


def test_a_failed_parity_check_leaves_nothing(quick: str, saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(
        CheckFailedError, match=r"differs from the package in a probability by 2e-05.*may differ by 1e-05"
    ) as caught:
        export(saved, quick, tmp_path / "out", heads)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_named(saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'onx'.*Did you mean 'onnx'"):
        export(saved, "onx", tmp_path / "out", heads)
    with pytest.raises(UsageError, match="--precision bf16 was given for hf"):
        export(saved, "hf", tmp_path / "out", heads, precision="bf16")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not an export"):
        export(saved, "hf", tmp_path, heads)
    assert (tmp_path / "mine.txt").read_text() == "mine"
