"""The choice of the best trial."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reslink.experiments.tune.records import SearchTrial, is_tied, select


def trial(number: int, scores: Sequence[float], flops: int = 100, state: str = "complete") -> SearchTrial:
    return SearchTrial(number, state, number == 0, {}, tuple(scores), f"d{number}", flops, 1.0, None, None)


def test_the_cheapest_within_one_standard_error_is_the_best() -> None:
    highest = trial(1, [0.90, 0.80, 0.85], flops=300)
    noisy = trial(2, [0.80, 0.89, 0.84], flops=100)  # differences 0.10, −0.09, 0.01: mean 0.0067, standard error 0.055
    worse = trial(3, [0.88, 0.78, 0.83], flops=50)  # lower by 0.02 in each fold: no doubt
    selection = select([highest, noisy, worse])
    assert selection is not None
    assert selection.highest is highest
    assert selection.tied == (highest, noisy)
    assert selection.best is noisy


def test_for_equal_cost_the_higher_mean_wins() -> None:
    selection = select([trial(0, [0.8, 0.9, 0.7]), trial(1, [0.9, 0.8, 0.75]), trial(2, [0.7, 0.95, 0.7])])
    assert selection is not None
    assert selection.best.number == 1


def test_pairing_matters() -> None:
    """The same two means and spreads, but differences of one sign in the first case only."""
    assert not is_tied([0.9, 0.8, 0.7, 0.6], [0.89, 0.79, 0.69, 0.58])
    assert is_tied([0.9, 0.8, 0.7, 0.6], [0.58, 0.69, 0.79, 0.89])
    assert is_tied([0.9, 0.8], [0.9, 0.8])


@pytest.mark.parametrize("state", ["stopped", "diverged", "failed", "unfinished"])
def test_only_complete_trials_are_candidates(state: str) -> None:
    assert select([trial(0, [0.9, 0.9], state=state)]) is None
    selection = select([trial(0, [0.99, 0.99], state=state), trial(1, [0.6, 0.7])])
    assert selection is not None
    assert selection.best.number == 1


def test_mean_and_standard_error() -> None:
    assert trial(0, [0.8, 0.9]).mean == pytest.approx(0.85)
    assert trial(0, [0.8, 0.9]).standard_error == pytest.approx(0.05)
    assert (trial(0, []).mean, trial(0, [0.8]).standard_error) == (None, None)
