"""Operating points against a search over every threshold."""

import numpy as np
import pytest

from reslink.errors import InputError, UsageError
from reslink.metrics.operating_point import OperatingPoint, choose_threshold


def rates(truth, prob, cut):
    called = prob >= cut
    return called[truth == 1].mean(), (~called[truth == 0]).mean(), truth.mean()


def draw(seed):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([[0, 1], rng.integers(0, 2, 60)])
    return truth, np.round(np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0.01, 0.99), 2)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("text", ["youden", "accuracy", "sensitivity=0.9", "specificity=0.9", "cost=5:1", "cost=1:8"])
def test_no_threshold_is_better(text, seed):
    truth, prob = draw(seed)
    point = OperatingPoint.parse(text)

    def value(cut):
        sensitivity, specificity, prevalence = rates(truth, prob, cut)
        return {
            "youden": sensitivity + specificity,
            "accuracy": prevalence * sensitivity + (1 - prevalence) * specificity,
            "sensitivity=0.9": specificity if sensitivity >= 0.9 else -1,
            "specificity=0.9": sensitivity if specificity >= 0.9 else -1,
            "cost=5:1": -5 * prevalence * (1 - sensitivity) - (1 - prevalence) * (1 - specificity),
            "cost=1:8": -prevalence * (1 - sensitivity) - 8 * (1 - prevalence) * (1 - specificity),
        }[text]

    result = choose_threshold(point, truth, prob)
    assert 0 <= result <= 1
    assert value(result) == pytest.approx(max(value(cut) for cut in np.arange(0, 1.001, 0.005)))
    assert not np.isclose(prob, result, atol=1e-9).any(), "it lies between probabilities"


def test_a_target_that_no_threshold_reaches_is_refused():
    """A negative case with a probability of 1 is positive at every threshold."""
    truth, prob = [0, 0, 1, 1], [0.1, 1.0, 0.4, 0.9]
    with pytest.raises(UsageError, match=r"No threshold reaches.*highest possible specificity is 0\.5: 1 of 2 negative"):
        choose_threshold(OperatingPoint.parse("specificity=1"), truth, prob)
    result = choose_threshold(OperatingPoint.parse("specificity=0.5"), truth, prob)
    assert rates(np.array(truth), np.array(prob), result)[:2] == (1, 0.5)
    assert choose_threshold(OperatingPoint.parse("sensitivity=1"), truth, prob) == pytest.approx(0.25)


@pytest.mark.parametrize("text", ["youden", "accuracy", "sensitivity=1", "specificity=1", "cost=1:8"])
def test_sure_cases_are_decided_by_what_a_threshold_can_do(text):
    """A threshold of 1 parts cases of probability 1 from the number below it; one above 1 does not exist."""
    truth, prob = np.array([0, 0, 0, 1, 1]), np.array([0.2, 0.9, np.nextafter(1, 0), 1.0, 1.0])
    result = choose_threshold(OperatingPoint.parse(text), truth, prob)
    assert result == 1
    assert rates(truth, prob, result)[:2] == (1, 1)


def test_the_best_is_chosen_among_thresholds_that_exist():
    """To call no case positive would be cheapest, but the case of probability 1 is: then the other two may as well be."""
    result = choose_threshold(OperatingPoint.parse("cost=1:8"), [0, 1, 1], [1.0, 0.3, 0.2])
    assert result == pytest.approx(0.1)


def test_the_default_looks_at_nothing():
    assert choose_threshold(OperatingPoint.parse("default"), [1, 1], [0.3, 0.4]) == 0.5


def test_costs_move_the_threshold_the_right_way():
    truth, prob = draw(3)
    cuts = [choose_threshold(OperatingPoint.parse(f"cost={ratio}:1"), truth, prob) for ratio in (20, 1, 0.05)]
    assert cuts[0] < cuts[1] < cuts[2]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("yuden", "Did you mean 'youden'"),
        ("sensitivity", "Did you mean 'sensitivity=0.95'"),
        ("sensitivity=95", "Did you mean 'sensitivity=0.95'"),
        ("specificity=0", "'specificity=0.95'"),
        ("cost=5", "Did you mean 'cost=5:1'"),
        ("cost=0:1", "Did you mean 'cost=5:1'"),
        ("sensitivity=nan", "sensitivity=0.95"),
        ("", "Choose one of"),
    ],
)
def test_what_is_no_operating_point(text, advice):
    with pytest.raises(UsageError, match=advice):
        OperatingPoint.parse(text)


def test_one_class_alone():
    with pytest.raises(InputError, match="All cases are of one class"):
        choose_threshold(OperatingPoint.parse("youden"), [1, 1], [0.3, 0.4])


def test_it_says_what_it_is():
    predictions = [str(OperatingPoint.parse(text)) for text in ("youden", "sensitivity=0.95", "cost=5:1")]
    assert predictions[0] == "Youden index"
    assert predictions[1] == "sensitivity of at least 0.95"
    assert predictions[2] == "lowest cost, 5 for a false negative and 1 for a false positive"
