"""``reslink info``: versions and capabilities."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from typer.testing import CliRunner, Result

from reslink import __version__
from reslink.cli.commands import info
from reslink.cli.main import app


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_info_lists_the_capabilities() -> None:
    facts = json.loads(invoke("info", "--json").stdout)
    assert facts["version"] == __version__
    assert facts["variants"][:4] == ["reslink_paper", "reslink_small", "reslink_context", "reslink_notebook"]
    assert ("densenet121" in facts["variants"]) is (find_spec("monai") is not None)
    assert {"brain", "subdural", "stroke", "bone", "three"} == set(facts["windows"])
    assert "auroc" in facts["metrics"]
    assert facts["devices"][0] == "cpu"
    assert facts["exit_codes"].keys() == {"0", "1", "2", "3", "130"}
    assert facts["packages"]["torch"] is not None


def test_info_for_people_ends_with_the_research_use_notice() -> None:
    result = invoke("info")
    assert "Research use only" in result.stderr
    assert "variants\treslink_paper, reslink_small, reslink_context" in result.stdout


def test_a_package_that_is_missing_has_no_version() -> None:
    assert info._package_version("no-such-package") is None
