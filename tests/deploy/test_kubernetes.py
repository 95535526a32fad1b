"""The manifests of the HTTP service: valid for Kubernetes, and equal to what the service does."""

from __future__ import annotations

import copy
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import reslink
from reslink.serving.http.app import Settings, create_app
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.middleware import PUBLIC_ROUTES

KUBERNETES = "1.37"
EXTENSIONS = ("kustomize.config.k8s.io/", "monitoring.coreos.com/", "ray.io/")
"""API groups that Kubernetes itself does not have."""


def documents(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the resources in a folder by kind."""
    loaded = [one for path in sorted(folder.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    return {one["kind"]: one for one in loaded if "kind" in one}


@pytest.fixture(scope="module")
def service(deploy: Path) -> dict[str, dict[str, Any]]:
    return documents(deploy / "kubernetes" / "service")


@pytest.fixture
def pod(service: dict[str, dict[str, Any]]) -> Any:
    return service["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    [container] = pod["containers"]
    return container


def weaknesses(pod: dict[str, Any]) -> Iterator[str]:
    """Yields where a pod has more rights than the service needs."""
    if pod.get("automountServiceAccountToken", True):
        yield "token of the service account"
    if not pod["securityContext"].get("runAsNonRoot"):
        yield "root"
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccomp"
    for container in pod["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation", True) or context.get("capabilities") != {"drop": ["ALL"]}:
            yield "privileges"
        if not context.get("readOnlyRootFilesystem"):
            yield "writable root"
        if not {"cpu", "memory"} <= {*container.get("resources", {}).get("limits", {})}:
            yield "no limits"


def test_every_manifest_is_valid(deploy: Path) -> None:
    paths = [*(deploy / "kubernetes" / "service").glob("*.yaml"), deploy / "ray" / "network-policy.yaml"]
    checked = 0
    for path in paths:
        for one in yaml.safe_load_all(path.read_text()):
            if not one["apiVersion"].startswith(EXTENSIONS):
                kubernetes_validate.validate(one, KUBERNETES, strict=True)
                checked += 1
    assert checked == 7


def test_an_unknown_field_is_noticed(service: dict[str, dict[str, Any]]) -> None:
    planted = copy.deepcopy(service["Deployment"])
    planted["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="'readynessProbe' was unexpected"):
        kubernetes_validate.validate(planted, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["service", "own-bundle"])
def test_kustomize_builds_what_is_valid(name: str, deploy: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", deploy / "kubernetes" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert {*built} == {
        *("Namespace", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"),
    }
    for one in built.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    [container] = built["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.org/reslink:{reslink.__version__}"
    mounts = {mount["name"]: mount.get("readOnly") for mount in container["volumeMounts"]}
    assert mounts == {"tmp": None} | ({"bundle": True} if name == "own-bundle" else {})


def test_kustomize_lists_every_file(deploy: Path) -> None:
    folder = deploy / "kubernetes" / "service"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in folder.iterdir())


def test_the_pod_has_no_right_that_the_service_does_not_need(pod: Any) -> None:
    assert [*weaknesses(pod)] == []


def test_a_right_too_many_is_noticed(pod: Any) -> None:
    planted = copy.deepcopy(pod)
    del planted["automountServiceAccountToken"]
    planted["securityContext"] = {}
    planted["containers"][0] |= {"resources": {}, "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}}
    expected = ["token of the service account", "root", "seccomp", "privileges", "writable root", "no limits"]
    assert [*weaknesses(planted)] == expected


@pytest.mark.parametrize("name", ["service", "own-bundle"])
def test_the_command_exists_and_opens_no_connection(name: str, deploy: Path, parse: Callable[[list[str]], Any]) -> None:
    pod = documents(deploy / "kubernetes" / name)["Deployment"]["spec"]["template"]["spec"]
    options = parse(pod["containers"][0]["args"])
    assert (options["host"], options["port"], options["offline"], options["workers"]) == ("0.0.0.0", 8000, True, 1)
    assert options["token"] is None, "the token comes from a Secret"


def test_the_token_comes_from_the_secret(container: Any, deploy: Path) -> None:
    reference = {"name": "RESLINK_TOKEN", "valueFrom": {"secretKeyRef": {"name": "reslink-token", "key": "token"}}}
    assert container["env"] == [reference]
    monitor = documents(deploy / "kubernetes" / "monitoring")["PodMonitor"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"] == reference["valueFrom"]["secretKeyRef"]
    assert "secret generic reslink-token --from-file=token=" in (deploy / "kubernetes/service/kustomization.yaml").read_text()


def test_the_probes_ask_routes_that_need_no_token(container: Any) -> None:
    routes = create_app(Settings(("ct",), token="a" * 24, quiet=True))._routes  # type: ignore[attr-defined]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert {*paths.values()} <= routes & {*PUBLIC_ROUTES}


def test_the_metrics_route_exists_and_needs_the_token(deploy: Path) -> None:
    routes = create_app(Settings(("ct",), token="a" * 24, quiet=True))._routes  # type: ignore[attr-defined]
    [endpoint] = documents(deploy / "kubernetes" / "monitoring")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in routes
    assert endpoint["path"] not in PUBLIC_ROUTES


def test_ports_have_one_name(service: dict[str, dict[str, Any]], container: Any, deploy: Path) -> None:
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    [policy] = service["NetworkPolicy"]["spec"]["ingress"]
    [endpoint] = documents(deploy / "kubernetes" / "monitoring")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    ports = [service["Service"]["spec"]["ports"][0]["targetPort"], policy["ports"][0]["port"], endpoint["port"]]
    ports += [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")]
    assert ports == ["http"] * 6


def test_the_autoscaler_reads_a_metric_that_an_idle_service_exports(service: dict[str, dict[str, Any]], deploy: Path) -> None:
    metrics = service["HorizontalPodAutoscaler"]["spec"]["metrics"]
    [name] = [one["pods"]["metric"]["name"] for one in metrics if one["type"] == "Pods"]
    assert re.search(rf"^{name}\{{", Metrics().exposition().decode(), re.MULTILINE)
    values = yaml.safe_load((deploy / "kubernetes" / "monitoring" / "prometheus-adapter-values.yaml").read_text())
    [rule] = values["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert "<<.Series>>" in rule["metricsQuery"], "the metric keeps the name of the series"


def test_the_autoscaler_acts_before_a_pod_is_full(service: dict[str, dict[str, Any]]) -> None:
    [queue] = [one["pods"] for one in service["HorizontalPodAutoscaler"]["spec"]["metrics"] if one["type"] == "Pods"]
    assert int(queue["target"]["averageValue"]) < Limits().concurrent_requests / 4
    assert "replicas" not in service["Deployment"]["spec"], "the autoscaler sets it"


def test_active_requests_are_answered_before_the_pod_is_killed(pod: Any, container: Any) -> None:
    drain = math.ceil(Limits().answer_seconds) + 5  # timeout_graceful_shutdown in serving/http/server.py
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + drain + 5


def test_the_pods_open_no_connection_and_are_reached_by_two_namespaces(service: dict[str, dict[str, Any]]) -> None:
    policy = service["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    [rule] = policy["ingress"]
    assert [{*source} for source in rule["from"]] == [{"namespaceSelector"}] * 2


def test_all_resources_select_the_pods_of_the_deployment(service: dict[str, dict[str, Any]], deploy: Path) -> None:
    labels = service["Deployment"]["spec"]["template"]["metadata"]["labels"]
    monitor = documents(deploy / "kubernetes" / "monitoring")["PodMonitor"]
    assert labels == service["Deployment"]["spec"]["selector"]["matchLabels"] == service["Service"]["spec"]["selector"]
    assert labels == service["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert labels == service["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert labels == monitor["spec"]["selector"]["matchLabels"]
    target = service["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", service["Deployment"]["metadata"]["name"])
