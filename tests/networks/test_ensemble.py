"""An ensemble of networks: averaged probabilities, features and maps, and its bundle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError
from reslink.explain.attribution import grad_cam
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.area_attention import record_attention_weights
from reslink.networks.build import build_network
from reslink.networks.config import ResLinkConfig
from reslink.networks.ensemble import Ensemble, mean_probability_logits, member_state
from reslink.networks.external_config import ExternalConfig, ensemble_architecture
from reslink.networks.network import Network

SMALL = ResLinkConfig(in_channels=1, stem_dim=8, stem_order="pool_first", dims=(8, 12), depths=(0, 1))
NOTEBOOK = ExternalConfig(name="reslink_notebook", source="notebook", in_channels=1, num_classes=3, size=64)


def members(config: ResLinkConfig | ExternalConfig, count: int = 3) -> list[Network]:
    return [build_network(config, seed).eval() for seed in range(count)]


def heads(images: int = 2) -> Tensor:
    return torch.rand((images, 1, 64, 64), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probabilities_are_the_mean_of_those_of_the_members(classes: int) -> None:
    networks = members(SMALL.model_copy(update={"num_classes": classes}))
    with torch.no_grad():
        expected = torch.stack([10 * network(heads()) for network in networks]).softmax(dim=-1).mean(dim=0)
        actual = mean_probability_logits([10 * network(heads()) for network in networks]).softmax(dim=-1)
    torch.testing.assert_close(actual, expected)


def test_a_single_logit_stays_one() -> None:
    networks = members(SMALL.model_copy(update={"num_classes": 1}))
    with torch.no_grad():
        logits = Ensemble(networks).eval()(heads())
        expected = torch.stack([network(heads()).sigmoid() for network in networks]).mean(dim=0)
    assert logits.shape == (2, 1)
    torch.testing.assert_close(logits.sigmoid(), expected)


def test_extreme_logits_stay_finite() -> None:
    logits = mean_probability_logits([torch.tensor([[200.0, -200.0]]), torch.tensor([[180.0, -180.0]])])
    assert logits.isfinite().all()
    assert logits[0, 0] - logits[0, 1] == pytest.approx(360.7, abs=0.1)


def test_features_maps_and_attention_are_those_of_the_members() -> None:
    networks = members(SMALL)
    ensemble = Ensemble(networks).eval()
    with torch.no_grad(), record_attention_weights(ensemble) as attention:
        logits, features, maps = ensemble.forward_with_features(heads(3))
        torch.testing.assert_close(logits, ensemble(heads(3)))
        ensemble(heads())  # a smaller batch afterwards
        kept = dict(attention)
    assert maps is not None
    assert (features.shape, maps.shape) == ((3, 12), (3, 36, 8, 8))
    with torch.no_grad():
        parts = [network.forward_with_features(heads(3)) for network in networks]
        torch.testing.assert_close(features, torch.stack([part[1] for part in parts]).mean(dim=0))
        cams = [network.class_maps(part[2]) for network, part in zip(networks, parts, strict=True) if part[2] is not None]
        torch.testing.assert_close(ensemble.class_maps(maps), torch.stack(cams).mean(dim=0))
        assert list(kept) == ["first_attention", "final_attention"]
        alphas = []
        for network in networks:
            with record_attention_weights(network) as own:
                network(heads())
            alphas.append(own["final_attention"])
    torch.testing.assert_close(kept["final_attention"], torch.stack(alphas).mean(dim=0))


def test_grad_cam_explains_all_members() -> None:
    networks = members(SMALL)
    single = members(SMALL.model_copy(update={"num_classes": 1}))
    [one] = grad_cam(single[0], heads(1), 1)
    [twice] = grad_cam(Ensemble([single[0], copy.deepcopy(single[0])]).eval(), heads(1), 1)
    np.testing.assert_allclose(twice, one, atol=1e-5 * one.max())
    ensemble = Ensemble(networks).eval()
    [together] = grad_cam(ensemble, heads(1), 1)
    assert together.shape == (64, 64)
    for layer in ensemble.explanation_layers:
        assert not np.allclose(grad_cam(ensemble, heads(1), 1, layer=layer)[0], together)


def architecture_of(config: ResLinkConfig | ExternalConfig, count: int = 3) -> dict[str, Any]:
    name = {"name": "reslink_small"} if isinstance(config, ResLinkConfig) else {}
    return ensemble_architecture({**config.model_dump(mode="json"), **name}, count)


def saved(folder: Path, config: ResLinkConfig | ExternalConfig) -> tuple[Bundle, Ensemble]:
    networks = members(config)
    names = ("a", "b", "c")[: max(2, config.num_classes)]
    decision = Decision.default(len(names))
    bundle = Bundle(architecture_of(config), Preprocess(size=64, channels=1), Labels(names), decision=decision)
    weights = {key: value for i, network in enumerate(networks) for key, value in member_state(i, network.state_dict()).items()}
    return bundle.save(folder, weights), Ensemble(networks).eval()


@pytest.mark.parametrize("config", [SMALL, SMALL.model_copy(update={"num_classes": 1}), NOTEBOOK])
def test_its_bundle_has_the_same_network_in_torch_and_onnx(config: ResLinkConfig | ExternalConfig, tmp_path: Path) -> None:
    from reslink.export.onnx import check_parity, to_onnx
    from reslink.inference.backends import GraphBackend

    bundle, ensemble = saved(tmp_path / "b", config)
    loaded = Bundle.load(tmp_path / "b").network()
    with torch.no_grad():
        torch.testing.assert_close(loaded(heads()), ensemble(heads()))
    graph = to_onnx(bundle)
    assert check_parity(bundle, graph).logits < 1e-4
    names = GraphBackend("onnxruntime", graph, 1).names
    assert set(names) >= {"logits", "features", "cam", "first_attention", "final_attention"}


def test_a_bundle_with_an_invalid_ensemble_is_refused(tmp_path: Path) -> None:
    bundle, _ = saved(tmp_path / "b", SMALL)
    nested = ensemble_architecture(bundle.architecture, 2)
    for change in ({"count": 1}, {"count": 10**6}, {"member": None}, {"member": nested}, {"count": 4}):
        broken = Bundle({**bundle.architecture, **change}, bundle.preprocess, bundle.labels)
        with pytest.raises(BundleError, match=r"cannot be built|do not fit the architecture"):
            broken.save(tmp_path / "broken", bundle.network().state_dict())
