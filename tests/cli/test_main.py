"""The command ``reslink``: version, help, completion and invalid values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink import __version__
from reslink.cli.main import app


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("export", "ct", "--format", "onxx"),
            "'onxx' is not one of 'onnx', 'openvino', 'torch-export', 'monai', 'hf'. Did you mean 'onnx'?",
        ),
        (("dicom", "answer", "ct", "x", "--map", "final"), "Did you mean 'final_attention'?"),
        (("export", "ct", "--format", "zzz"), "'zzz' is not one of 'onnx', 'openvino', 'torch-export', 'monai', 'hf'. "),
    ],
)
def test_an_invalid_value_suggests_the_nearest(words: tuple[str, ...], told: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split()) + " "
    assert told in said
    assert "Value error" not in said


def test_version() -> None:
    assert invoke("--version").stdout == f"reslink {__version__}\n"


def test_no_words_show_the_help() -> None:
    assert "Usage: reslink" in invoke().output


def test_completion_for_the_shell_is_there() -> None:
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is the one named, not our parent
    words = [sys.executable, "-m", "reslink", "--show-completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=named)
    assert "_RESLINK_COMPLETE" in done.stdout
