"""The Containerfile: read, and built where a builder works."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from string import Template

import pytest

TARGETS = {"service": {"dicom", "gdcm", "serve"}, "node": {"dicom", "gdcm", "pacs"}, "ray": {"dicom", "gdcm", "ray"}}
"""The extras of each image. None of them needs torch."""


def builder() -> str | None:
    """Returns a program that can build images here: one that is installed, and whose daemon runs if it needs one."""
    for name in ("podman", "buildah", "docker"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    return None


def values(stage: list[str], instruction: str) -> list[str]:
    return [line.removeprefix(instruction).strip() for line in stage if line.startswith(f"{instruction} ")]


def test_there_is_one_image_for_each_purpose(stages: dict[str, list[str]]) -> None:
    assert {*stages} == {"base", *TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_its_extras_in_the_versions_that_are_tested(target: str, stages: dict[str, list[str]]) -> None:
    defaults = dict(line.split("=") for line in values(stages[target], "ARG"))
    installs = [Template(line).safe_substitute(defaults) for line in values(stages[target], "RUN") if "pip install" in line]
    assert len(installs) == 2
    assert all(line.startswith("python -m pip install --no-cache-dir -c /src/constraints.txt ") for line in installs)
    assert {extra for line in installs for extra in re.findall(r"/src\[([^\]]*)\]", line)[0].split(",")} == TARGETS[target]


def test_the_extras_exist_and_the_packages_are_pinned(deploy: Path, pinned: dict[str, str]) -> None:
    extras = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if "ray" not in extras:
        pytest.skip("this version has no extra ray")
    assert {extra for used in TARGETS.values() for extra in used} <= {*extras}
    assert {"ray", "aiohttp-cors", "opencensus"} <= {*pinned}, "what ray[default] needs"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_that_kubernetes_can_check(target: str, stages: dict[str, list[str]]) -> None:
    assert values(stages[target], "USER") == ["1000"], "a name instead of a number fails runAsNonRoot"


def test_signals_reach_reslink(stages: dict[str, list[str]]) -> None:
    for target, program in (("service", "reslink"), ("node", "reslink"), ("ray", "ray")):
        assert values(stages[target], "ENTRYPOINT")[-1] == f'["{program}"]'


def test_the_ray_image_is_never_without_token(stages: dict[str, list[str]]) -> None:
    assert "ENV RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" in stages["ray"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_the_image_builds_and_starts(target: str, deploy: Path) -> None:
    program = builder()
    if program is None:
        pytest.skip("no podman, buildah or docker works here; the Containerfile was only read")
    command = "bud" if program == "buildah" else "build"
    file = deploy / "container" / "Containerfile"
    subprocess.run(
        [program, command, "--target", target, "-t", f"reslink-test-{target}", "-f", file, deploy.parent], check=True
    )
    if program != "buildah":
        subprocess.run([program, "run", "--rm", f"reslink-test-{target}", "--version"], check=True)
