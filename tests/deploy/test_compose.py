"""Orthanc, the DICOM node and the HTTP service on one machine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reslink.serving.http.limits import Limits


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((deploy / "compose" / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def orthanc(deploy: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((deploy / "compose" / "orthanc.json").read_text())
    return loaded


def open_ports(compose: dict[str, Any]) -> list[str]:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    return [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)]


def optional_variables(text: str) -> list[str]:
    """Returns the variables that have a default or may be empty."""
    return [one for one in re.findall(r"(?<!\$)\$\{[^}]*\}", text) if not re.match(r"\$\{\w+:\?[^}]+\}", one)]


def test_everything_is_reachable_from_this_machine_only(compose: dict[str, Any]) -> None:
    assert open_ports(compose) == []
    assert open_ports({"services": {"a": {"ports": ["8042:8042", "127.0.0.1:1:1"]}}}) == ["8042:8042"]
    assert compose["services"]["node"]["networks"] == ["dicom"]
    assert compose["networks"]["dicom"]["internal"] is True


def test_passwords_have_no_default(deploy: Path, orthanc: dict[str, Any]) -> None:
    text = (deploy / "compose" / "compose.yaml").read_text()
    assert optional_variables(text) == []
    assert optional_variables("${A:-secret} ${B} ${C:?is missing}") == ["${A:-secret}", "${B}"]
    variables = ["ORTHANC_USER", "ORTHANC_PASSWORD", "RESLINK_TOKEN"]
    assert re.findall(r"\$\{(\w+):\?", text) == variables == re.findall(r"(?:'|\\n)([A-Z_]+)=", text)
    assert orthanc["RegisteredUsers"] == {"${ORTHANC_USER}": "${ORTHANC_PASSWORD}"}
    assert orthanc["AuthenticationEnabled"] is True
    assert "/deploy/compose/.env" in (deploy.parent / ".gitignore").read_text().splitlines()


def test_a_missing_password_is_an_error(deploy: Path) -> None:
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "--env-file", "/dev/null", "-f", deploy / "compose" / "compose.yaml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is missing. Write deploy/compose/.env" in done.stderr


def test_the_images_are_those_that_are_built(compose: dict[str, Any], stages: dict[str, list[str]], deploy: Path) -> None:
    for name in ("node", "service"):
        build = compose["services"][name]["build"]
        assert build["target"] in stages
        context = (deploy / "compose" / build["context"]).resolve()
        assert context == deploy.parent
        assert (context / build["dockerfile"]).is_file()


def test_the_containers_of_reslink_have_no_right_too_many(compose: dict[str, Any]) -> None:
    for name in ("node", "service"):
        service = compose["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert "no-new-privileges:true" in service["security_opt"]


def test_the_commands_exist(compose: dict[str, Any], parse: Callable[[list[str]], Any]) -> None:
    service = parse(shlex.split(compose["services"]["service"]["command"]))
    assert (service["host"], service["port"], service["offline"]) == ("0.0.0.0", 8000, True)
    assert compose["services"]["service"]["ports"] == ["127.0.0.1:8000:8000"]
    assert "http://127.0.0.1:8000/health/ready" in str(compose["services"]["service"]["healthcheck"])
    node = parse(shlex.split(compose["services"]["node"]["command"]))
    assert str(node["queue"]) == "/queue"
    assert "queue:/queue" in compose["services"]["node"]["volumes"]


def test_orthanc_and_the_node_find_each_other(
    compose: dict[str, Any], orthanc: dict[str, Any], parse: Callable[[list[str]], Any], deploy: Path
) -> None:
    node = parse(shlex.split(compose["services"]["node"]["command"]))
    assert node["send_to"] == f"{orthanc['DicomAet']}@orthanc:4242"
    assert node["allow"] == [orthanc["DicomAet"]]
    assert orthanc["DicomModalities"] == {"reslink": [node["ae_title"], "node", node["port"]]}
    route = (deploy / "orthanc" / "route.py").read_text()
    assert "/modalities/reslink/store" in route
    assert f'"{orthanc["PythonScript"]}"' in route
    assert f"../orthanc/route.py:{orthanc['PythonScript']}:ro" in compose["services"]["orthanc"]["volumes"]


def test_active_requests_are_answered_before_the_service_is_killed(compose: dict[str, Any]) -> None:
    seconds = int(compose["services"]["service"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= Limits().answer_seconds + 5 + 5
