"""Likely label errors, ranked."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import QuantileTransformer

from reslink.audit.checks.label_errors import (
    _normal_scores,
    _quick_model,
    quick_model_probabilities,
    sampled_model_probabilities,
    suspected_errors,
)
from reslink.audit.features.asymmetry import NUM_FEATURES
from reslink.errors import UsageError


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslink.audit.checks.label_errors.TREES", 25)
    monkeypatch.setattr("reslink.audit.checks.label_errors.SMALL_DATA_FOLDS", 5)


def data(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features that predict the class, and thumbnails that do not."""
    targets = np.tile([0, 1], n // 2)
    features = rng.normal(size=(n, NUM_FEATURES)).astype(np.float32)
    features[:, :20] += 1.5 * targets[:, None]
    return features, rng.integers(0, 255, (n, 64, 64), np.uint8), targets


def test_flipped_labels_come_first(rng: np.random.Generator) -> None:
    features, thumbnails, targets = data(200, rng)
    flipped = rng.choice(200, 10, replace=False)
    given = targets.copy()
    given[flipped] = 1 - given[flipped]
    y_prob = quick_model_probabilities(features, thumbnails, given, [str(i) for i in range(200)], 2, 0)
    assert not isinstance(y_prob, str)
    errors = suspected_errors(y_prob, given)
    first = {error.row for error in errors[:20]}
    assert len(first & set(flipped.tolist())) >= 9
    assert [error.score for error in errors] == sorted(error.score for error in errors)
    assert all(error.suggested != error.given for error in errors)
    assert sum(error.confident for error in errors) >= 8


def test_a_copy_with_the_right_label_does_not_help(rng: np.random.Generator) -> None:
    """The copies of a case are scored by a model that was not fitted on any of them."""
    features, thumbnails, targets = data(60, rng)
    features[:] = rng.normal(size=features.shape)
    twice = (np.repeat(features, 4, axis=0), np.repeat(thumbnails, 4, axis=0), np.repeat(targets, 4))
    y_prob = quick_model_probabilities(*twice, [str(i // 4) for i in range(240)], 2, 0)
    assert not isinstance(y_prob, str)
    assert (y_prob.argmax(axis=1) == twice[2]).mean() < 0.7


@pytest.mark.parametrize("classes", [2, 4])
def test_the_linear_part_is_the_optimum_that_another_solver_finds(rng: np.random.Generator, classes: int) -> None:
    """It solves in float64: in float32 the Hessian of 4 classes and 335 features of mri4 is ill-conditioned."""
    features = rng.normal(size=(400, 40)).astype(np.float32)
    targets = (features[:, 0] * 2 + rng.normal(size=400)).clip(0, classes - 1).astype(int)
    linear = dict(_quick_model(400, 0).estimators)["linear"].fit(features, targets)
    scores = linear[:-1].transform(features)
    assert scores.dtype == np.float64
    expected = LogisticRegression(C=0.02, tol=1e-10, max_iter=5000, class_weight="balanced").fit(scores, targets)
    np.testing.assert_allclose(linear.predict_proba(features), expected.predict_proba(scores), atol=1e-3)


class TestSample:
    """The models are fitted on a sample, and all cases are scored."""

    def test_flipped_labels_outside_the_sample_are_found(
        self, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reslink.audit.checks.label_errors.SCORED_AT_ONCE", 70)
        features, thumbnails, targets = data(400, rng)
        flipped, sample = np.arange(1, 400, 40), np.arange(0, 400, 2)
        given = targets[rng.permutation(400)]
        features[:, :20] += 1.5 * (given - targets)[:, None]
        true = given.copy()
        given[flipped] = 1 - given[flipped]
        sizes = []

        def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            sizes.append(len(rows))
            return features[rows], thumbnails[rows]

        y_prob = sampled_model_probabilities(read, sample, given, [str(i) for i in range(400)], 2, 0)
        assert not isinstance(y_prob, str)
        assert sizes == [200, 70, 70, 60]
        assert np.allclose(y_prob.sum(axis=1), 1)
        assert (y_prob.argmax(axis=1) == true)[1::2].mean() > 0.9
        assert len({error.row for error in suspected_errors(y_prob, given)[:20]} & set(flipped.tolist())) >= 9

    def test_copies_outside_the_sample_are_scored_without_their_group(self, rng: np.random.Generator) -> None:
        features, thumbnails, targets = data(60, rng)
        features[:] = rng.normal(size=features.shape)
        twice = (np.repeat(features, 4, axis=0), np.repeat(thumbnails, 4, axis=0), np.repeat(targets, 4))
        sample, groups = np.flatnonzero(np.arange(240) % 4 < 3), [str(i // 4) for i in range(240)]
        y_prob = sampled_model_probabilities(lambda rows: (twice[0][rows], twice[1][rows]), sample, twice[2], groups, 2, 0)
        assert not isinstance(y_prob, str)
        assert (y_prob.argmax(axis=1) == twice[2])[3::4].mean() < 0.7

    def test_too_few_groups_are_reported(self, rng: np.random.Generator) -> None:
        features, thumbnails, targets = data(8, rng)
        groups = [str(i) for i in range(8)]
        reason = sampled_model_probabilities(
            lambda rows: (features[rows], thumbnails[rows]), np.arange(8), targets, groups, 2, 0
        )
        assert reason == "a class has 4 independent groups of images, and a quick model needs at least 5"


def test_too_few_groups_are_reported(rng: np.random.Generator) -> None:
    features, thumbnails, targets = data(8, rng)
    reason = quick_model_probabilities(features, thumbnails, targets, [str(i) for i in range(8)], 2, 0)
    assert reason == "a class has 4 independent groups of images, and a quick model needs at least 5"


def test_without_cleanlab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **options: object) -> object:
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("reslink.files.importlib.import_module", lambda name: without(name))
    with pytest.raises(UsageError, match=r"The package 'cleanlab' is not installed.*audit"):
        suspected_errors(np.full((4, 2), 0.5), np.array([0, 1, 0, 1]))


def test_normal_scores_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(size=(200, 3)), rng.integers(0, 3, (200, 2))], axis=1)
    ranks, scores = (
        QuantileTransformer(n_quantiles=50, output_distribution=form).fit(values).transform(np.r_[values, -9 + 0 * values[:1]])
        for form in ("uniform", "normal")
    )
    np.testing.assert_allclose(_normal_scores(ranks), scores, atol=1e-6)
    assert np.abs(scores).max() > 5, "the ends are among them"
