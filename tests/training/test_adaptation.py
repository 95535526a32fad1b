"""Adaptation of a network: statistics of BatchNorm, and a dense layer near given weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from reslink.errors import UsageError
from reslink.networks.ensemble import Ensemble
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.training.adaptation import HeadFit, adapt_batch_norm, adapt_head, dense_layer, fit_head


def small(**changes: Any) -> Any:
    return build_network(ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1, **changes), seed=1)


def two_layers() -> nn.Sequential:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2, affine=False)).eval()
    network[0].running_mean.copy_(torch.tensor([1.0, -1.0]))
    network[0].running_var.copy_(torch.tensor([2.0, 0.5]))
    return network


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))


def as_input(batch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(batch.astype(np.float32))


def test_statistics_are_mixed_layer_by_layer(rng: np.random.Generator) -> None:
    network, images = two_layers(), rng.integers(0, 9, (16, 2, 5, 5)).astype(np.uint8)
    weight = adapt_batch_norm(network, lambda batch: network(as_input(batch)), [images], n_images=16, pseudo_count=48)
    assert weight == 0.25
    mean, var = moments(images.astype(float))
    mean, var = 0.75 * np.array([1.0, -1.0]) + 0.25 * mean, 0.75 * np.array([2.0, 0.5]) + 0.25 * var
    np.testing.assert_allclose(network[0].running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(network[0].running_var, var, rtol=1e-5)
    hidden = np.maximum((images - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None], 0)  # as it will be later
    mean, var = moments(hidden)
    np.testing.assert_allclose(network[2].running_mean, 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(network[2].running_var, 0.75 + 0.25 * var, rtol=1e-5)
    assert not network.training
    assert not network[0]._forward_pre_hooks


def test_batches_of_other_sizes_give_the_statistics_of_all_images(rng: np.random.Generator) -> None:
    images = (rng.integers(0, 9, (20, 2, 5, 5)) + np.arange(20)[:, None, None, None]).astype(np.uint8)
    network = two_layers()
    batches = (images[:13], images[13:])  # the mean differs between them
    adapt_batch_norm(network, lambda batch: network(as_input(batch)), batches, n_images=20, pseudo_count=0)
    mean, var = moments(images.astype(float))
    np.testing.assert_allclose(network[0].running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(network[0].running_var, var, rtol=1e-5)


def test_a_network_without_batch_norm_is_refused() -> None:
    for network in (nn.Conv2d(1, 1, 3), nn.BatchNorm2d(2, track_running_stats=False)):
        with pytest.raises(UsageError, match=r"no BatchNorm layer with running statistics.*mean and the variance.*Use --head"):
            adapt_batch_norm(network, network, [], 10)


def planted(rng: np.random.Generator, n: int = 120, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose classes are those of the returned weights."""
    features, weight = rng.normal(size=(n, 5)), 3 * rng.normal(size=(k, 5))
    return features, (features @ weight.T).argmax(axis=1), weight


FOLDS = [(np.delete(np.arange(120), np.arange(i, 120, 5)), np.arange(i, 120, 5)) for i in range(5)]


def test_without_given_weights_it_is_logistic_regression(rng: np.random.Generator) -> None:
    features, y_true, _ = planted(rng)
    fit = fit_head(features, y_true, np.zeros((3, 5)), np.zeros(3), FOLDS, fit_bias=False)
    assert fit.strength is not None
    scale = np.sqrt((features**2).sum(axis=1).mean())
    known = LogisticRegression(C=1 / (120 * fit.strength), fit_intercept=False, max_iter=1000, tol=1e-8)
    known.fit(features / scale, y_true)
    np.testing.assert_allclose(fit.weight * scale, known.coef_, atol=0.01)
    assert not fit.bias.any()
    assert fit.cross_entropy[0] == pytest.approx(np.log(3))
    assert fit.cross_entropy[1] < 0.4


def test_a_shifted_bias_is_repaired_and_weights_stay_near(rng: np.random.Generator) -> None:
    features, y_true, weight = planted(rng)
    fit = fit_head(features, y_true, weight, np.array([8.0, 0, -8.0]), FOLDS)
    before = ((features @ weight.T + [8.0, 0, -8.0]).argmax(axis=1) == y_true).mean()
    after = ((features @ fit.weight.T + fit.bias).argmax(axis=1) == y_true).mean()
    assert before < 0.75
    assert after > 0.9
    assert np.linalg.norm(fit.weight - weight) < np.linalg.norm(weight)


def test_labels_that_tell_nothing_leave_the_layer_unchanged(rng: np.random.Generator) -> None:
    features, _, _ = planted(rng)
    y_true = np.arange(120) // 5 % 3
    fit = fit_head(features, y_true, np.zeros((3, 5)), np.zeros(3), FOLDS)
    assert (fit.strength, fit.weight.any(), fit.bias.any()) == (None, False, False)
    assert fit.cross_entropy[0] == fit.cross_entropy[1]


def test_the_layer_is_changed_in_place(rng: np.random.Generator) -> None:
    features, y_true, _ = planted(rng)
    for bias in (True, False):
        dense = nn.Linear(5, 3, bias=bias).requires_grad_(False)
        fit = adapt_head(dense, features, y_true, FOLDS)
        assert isinstance(fit, HeadFit)
        np.testing.assert_allclose(dense.weight, fit.weight, rtol=1e-5)
        logits = dense(torch.from_numpy(features.astype(np.float32))).numpy()
        assert (logits.argmax(axis=1) == y_true).mean() > 0.9


def test_networks_without_a_logit_per_class_are_refused() -> None:
    assert dense_layer(small(), 2).out_features == 2
    with pytest.raises(UsageError, match=r"no dense layer from its features.*ensemble has several.*Use --batch-norm"):
        dense_layer(Ensemble([small(), small()]), 2)
    with pytest.raises(UsageError, match=r"a single logit for two classes.*one logit per class"):
        dense_layer(small(num_classes=1), 2)
