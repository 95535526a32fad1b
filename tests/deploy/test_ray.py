"""The files that start Ray clusters: valid for their readers, with the pinned version, and never open to everyone."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import reslink

GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
JOB = {"submissionMode", "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
"""Fields of KubeRay 1.6 and 1.7 that the manifests use. They were checked against the schemas of these versions."""


def unknown_fields(cluster: dict[str, Any]) -> Iterator[str]:
    yield from {*cluster} - CLUSTER
    for group in groups(cluster):
        yield from {*group} - GROUP


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.fixture(scope="module")
def manifests(deploy: Path) -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in (deploy / "ray").glob("kuberay-*.yaml")}


@pytest.fixture(scope="module")
def clusters(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    return [manifests["kuberay-cluster"]["spec"], manifests["kuberay-job"]["spec"]["rayClusterSpec"]]


@pytest.fixture(scope="module")
def version(pinned: dict[str, str]) -> str:
    if "ray" not in pinned:
        pytest.skip("this version has no ray in constraints.txt")
    return pinned["ray"]


@pytest.fixture(scope="module")
def on_premise(deploy: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((deploy / "ray" / "on-premise.yaml").read_text())
    return config


@pytest.fixture(scope="module")
def ray_options() -> set[str]:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in parameter.opts}


def test_the_manifests_use_fields_that_kuberay_has(manifests: dict[str, Any], clusters: list[dict[str, Any]]) -> None:
    assert {name: one["kind"] for name, one in manifests.items()} == {"kuberay-cluster": "RayCluster", "kuberay-job": "RayJob"}
    assert {*manifests["kuberay-job"]["spec"]} == JOB
    assert [field for cluster in clusters for field in unknown_fields(cluster)] == []


def test_an_unknown_field_is_noticed(clusters: list[dict[str, Any]]) -> None:
    planted = copy.deepcopy(clusters[0])
    planted["rayVerzion"] = planted["workerGroupSpecs"][0]["replica"] = "1"
    assert [*unknown_fields(planted)] == ["rayVerzion", "replica"]


def test_the_pods_are_valid_and_have_no_right_too_many(clusters: list[dict[str, Any]]) -> None:
    for template in (group["template"] for cluster in clusters for group in groups(cluster)):
        resource = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": template}
        kubernetes_validate.validate(resource, "1.37", strict=True)
        pod = template["spec"]
        [container] = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_every_cluster_wants_the_token_of_a_secret_and_sends_no_statistics(
    clusters: list[dict[str, Any]], deploy: Path
) -> None:
    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token", "secretName": "reslink-ray-token"}
        for group in groups(cluster):
            [container] = group["template"]["spec"]["containers"]
            assert container["env"] == [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    how = (deploy / "ray" / "network-policy.yaml").read_text()
    assert "secret generic reslink-ray-token --from-file=auth_token=" in how


def test_only_the_job_opens_the_dashboard_and_only_to_the_operator(clusters: list[dict[str, Any]], deploy: Path) -> None:
    hosts = [cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] for cluster in clusters]
    assert hosts == ["127.0.0.1", "0.0.0.0"]
    policy = yaml.safe_load((deploy / "ray" / "network-policy.yaml").read_text())["spec"]
    pods, operator = policy["ingress"]
    assert pods == {"from": [{"podSelector": policy["podSelector"]}]}
    assert operator["ports"] == [{"port": 8265}]
    assert "ipBlock" not in str(policy)


def test_everything_is_of_the_pinned_version(clusters: list[dict[str, Any]], version: str, deploy: Path) -> None:
    assert [cluster["rayVersion"] for cluster in clusters] == [version] * 2
    assert f"ray.__version__ == '{version}'" in (deploy / "ray" / "on-premise.yaml").read_text()
    named = re.findall(r"\b[Rr]ay (\d+\.\d+\.\d+)", "".join(path.read_text() for path in (deploy / "ray").iterdir()))
    assert {*named} == {version}


def test_the_image_is_the_one_that_is_built(clusters: list[dict[str, Any]], stages: dict[str, list[str]]) -> None:
    assert "ray" in stages
    images = {group["template"]["spec"]["containers"][0]["image"] for cluster in clusters for group in groups(cluster)}
    assert images == {f"registry.example.org/reslink-ray:{reslink.__version__}"}


def test_the_command_of_the_job_exists(
    manifests: dict[str, Any], deploy: Path, parse: Callable[[list[str]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    entrypoint = manifests["kuberay-job"]["spec"]["entrypoint"]
    assert f"sh -c '{entrypoint}'" in (deploy / "ray" / "kuberay-cluster.yaml").read_text()
    program, *words = shlex.split(entrypoint.replace("$(hostname -i)", "10.0.0.7"))  # Ray listens on the address of the pod
    assert program == "reslink"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert parse(words)["on"] == "10.0.0.7:6379"


def test_the_job_writes_to_the_shared_storage(manifests: dict[str, Any], clusters: list[dict[str, Any]]) -> None:
    paths = [word for word in shlex.split(manifests["kuberay-job"]["spec"]["entrypoint"]) if word.startswith("/")]
    assert paths == ["/shared/archive", "/shared/out.csv"]
    for group in (group for cluster in clusters for group in groups(cluster)):
        [container] = group["template"]["spec"]["containers"]
        assert container["workingDir"] == "/shared"
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]


def test_ray_accepts_the_file_of_ray_up(on_premise: dict[str, Any], ray_options: set[str]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(on_premise)))
    with pytest.raises(Exception, match="'workers' was unexpected"):
        validate_config(prepare_config({**copy.deepcopy(on_premise), "workers": 2}))


def test_machines_need_the_token_before_ray_starts(on_premise: dict[str, Any], ray_options: set[str]) -> None:
    assert on_premise["max_workers"] == len(on_premise["provider"]["worker_ips"])
    starts = [on_premise[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    for command in starts:
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/shared/reslink/ray-token RAY_USAGE_STATS_ENABLED=0" in command
        assert {*re.findall(r"--[a-z-]+", command)} <= ray_options
    assert f"--node-ip-address={on_premise['provider']['head_ip']} " in starts[0]
    assert "--include-dashboard=false --dashboard-host=127.0.0.1" in starts[0]
    assert "test -r /shared/reslink/ray-token" in on_premise["setup_commands"]
