"""Each diagnostic reports a planted fault and is silent otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reslink.imaging.image import Stated
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import DivergenceDetector
from reslink.training.monitoring.layer_statistics import AttentionStatistics, BatchNormStatistics


def layer(mean: float, std: float, inside: float | None = None, outside: float | None = None) -> AttentionStatistics:
    return AttentionStatistics("final_attention", mean, std, inside, outside, 0.4)


@pytest.mark.parametrize(
    ("mean", "std", "code"),
    [
        (0.99, 0.01, "attention-saturated-final_attention"),
        (0.01, 0.01, "attention-dead-final_attention"),
        (0.97, 0.10, None),  # high except in a few places: it attends to something
        (0.04, 0.15, None),  # low except in a few places
        (0.50, 0.01, None),
    ],
)
def test_uniform_attention(mean: float, std: float, code: str | None) -> None:
    finding = diagnostics.attention_uniform(layer(mean, std), 3)
    assert (finding.code if finding else None) == code
    assert finding is None or (finding.epoch == 3 and f"{mean:.3f}" in finding.message)


@pytest.mark.parametrize(
    ("inside", "outside", "fires"), [(0.2, 0.8, True), (0.5, 0.6, False), (0.8, 0.2, False), (None, 0.9, False)]
)
def test_attention_outside_the_head(inside: float | None, outside: float, fires: bool) -> None:
    finding = diagnostics.attention_outside(layer(0.4, 0.2, inside, outside), 1)
    assert (finding is not None) == fires
    assert finding is None or "attention_supervision.weight" in finding.advice


def epochs(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"train_accuracy": train, "val_accuracy": validation} for train, validation in pairs]


@pytest.mark.parametrize(
    ("rows", "n", "fires"),
    [
        (epochs((0.7, 0.7), (0.99, 0.70), (1.0, 0.71)), 400, True),
        (epochs((0.99, 0.70)), 400, False),  # one epoch says little
        (epochs((0.95, 0.94), (0.99, 0.70)), 400, False),
        (epochs((0.99, 0.70), (1.0, 0.95)), 400, False),
        (epochs((0.99, 0.80), (1.0, 0.80)), 20, False),  # 4 errors of 20 can be chance
        (epochs((0.99, 0.95), (1.0, 0.95)), 400, False),
    ],
)
def test_the_gap_between_training_and_validation(rows: list[dict[str, float]], n: int, fires: bool) -> None:
    finding = diagnostics.train_validation_gap(rows, n, len(rows))
    assert (finding is not None) == fires
    assert finding is None or "1.000 on training images and 0.710 on validation" in finding.message


@pytest.mark.parametrize(
    ("drifted", "batch", "steps", "fires"),
    [(0.5, 32, 200, True), (0.5, 32, 10, False), (0.05, 32, 200, False), (0.05, 4, 10, True)],
)
def test_batch_statistics(drifted: float, batch: int, steps: int, fires: bool) -> None:
    finding = diagnostics.batch_statistics(BatchNormStatistics(drifted, 100), batch, steps, 1)
    assert (finding is not None) == fires
    assert finding is None or f"{drifted:.0%} of 100 channels" in finding.message


def test_a_diverging_loss() -> None:
    detector = DivergenceDetector()
    healthy = [detector.add(0.7 - 0.01 * i + (0.9 if i % 7 == 0 else 0), 0.001, 1) for i in range(40)]
    assert healthy == [None] * 40
    findings = [detector.add(0.5 * 1.3**i, 0.1, 2) for i in range(20)]
    reported = [finding for finding in findings if finding]
    assert reported
    assert reported[0].code == "learning-rate-diverges"
    assert "learning rate 0.1" in reported[0].message


@pytest.mark.parametrize(("floor", "n_findings"), [(0.0, 1), (0.69, 0)])
def test_twice_the_low_loss_of_a_fine_tuned_network_is_no_divergence(floor: float, n_findings: int) -> None:
    detector = DivergenceDetector(floor)
    findings = [detector.add(loss, 0.001, 1) for loss in [0.05] * 3 + [0.15] * 10]
    assert len([finding for finding in findings if finding]) == n_findings


def test_images_that_an_ancestor_saw_are_counted() -> None:
    assert diagnostics.seen_by_ancestors(0, allowed=False) is None
    left_out, used = (diagnostics.seen_by_ancestors(7, allowed=allowed) for allowed in (False, True))
    assert left_out is not None
    assert used is not None
    assert "on 7 of the validation and test images" in left_out.message
    assert left_out.message.endswith("They are left out")
    assert used.message.endswith("every metric may be too high")


def test_the_divergence_detector_is_restored() -> None:
    one, other = DivergenceDetector(), DivergenceDetector()
    for i in range(15):
        one.add(1.0 + i / 100, 0.1, 1)
    other.restore(one.state())
    for loss in (3.0, 4.0, 5.0, 6.0, 7.0):
        assert (one.add(loss, 0.1, 1) is None) == (other.add(loss, 0.1, 1) is None)
    assert one.state() == other.state()


def scores(auroc_like: float, n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and two-class probabilities whose classes are apart by ``auroc_like`` standard deviations."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 2
    positive = 1 / (1 + np.exp(-rng.normal(auroc_like * targets, 1)))
    return targets, np.stack([1 - positive, positive], axis=1)


def singles(n: int) -> list[str]:
    return [str(i) for i in range(n)]


@pytest.mark.parametrize(("distance", "reported"), [(0.0, True), (-2.0, True), (1.0, False), (3.0, False)])
def test_a_model_no_better_than_chance(distance: float, reported: bool) -> None:
    targets, probabilities = scores(distance)
    finding = diagnostics.no_better_than_chance(targets, probabilities, singles(200), 4)
    assert (finding is not None) == reported
    if finding is not None:
        auroc = roc_auc_score(targets, probabilities[:, 1])
        assert (finding.code, finding.epoch) == ("no-better-than-chance", 4)
        assert f"AUROC on 200 validation images is {auroc:.3f} (95 % interval " in finding.message


def test_chance_with_more_classes() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(300) % 3
    blind = rng.dirichlet(np.ones(3), 300)
    seeing = 0.2 * blind + 0.8 * np.eye(3)[np.where(rng.random(300) < 0.8, targets, rng.integers(0, 3, 300))]
    assert diagnostics.no_better_than_chance(targets, blind, singles(300), 1) is not None
    assert diagnostics.no_better_than_chance(targets, seeing, singles(300), 1) is None


def test_chance_is_judged_over_groups() -> None:
    """Ten copies of each image of four patients do not make a weak result significant."""
    targets, positive = np.repeat([0, 0, 1, 1], 10), np.repeat([0.2, 0.6, 0.5, 0.7], 10)
    probabilities = np.stack([1 - positive, positive], axis=1)
    patients = [f"patient {i // 10}" for i in range(40)]
    assert diagnostics.no_better_than_chance(targets, probabilities, singles(40), 1) is None
    assert diagnostics.no_better_than_chance(targets, probabilities, patients, 1) is not None


@pytest.mark.parametrize(("positive", "stated"), [(9, "only 9 images of a class"), (10, "95 % interval 0.")])
def test_the_interval_of_few_images_is_not_stated(positive: int, stated: str) -> None:
    targets = np.array([1] * positive + [0] * 40)
    scores = np.random.default_rng(0).random(len(targets))
    finding = diagnostics.no_better_than_chance(targets, np.stack([1 - scores, scores], axis=1), singles(len(targets)), 1)
    assert finding is not None
    assert stated in finding.message


def test_chance_needs_two_images_of_each_class() -> None:
    probabilities = np.full((3, 2), 0.5)
    assert diagnostics.no_better_than_chance(np.array([0, 0, 1]), probabilities, singles(3), 1) is None
    assert diagnostics.no_better_than_chance(np.array([0, 0, 0]), probabilities, singles(3), 1) is None


def test_a_class_that_is_never_predicted() -> None:
    names = ("Healthy", "glioma", "pituitary")
    targets = np.array([0, 0, 1, 1, 1, 0])
    assert diagnostics.class_never_predicted(targets, np.array([0, 1, 1, 0, 0, 0]), names, 2, has_threshold=False) is None
    finding = diagnostics.class_never_predicted(targets, np.zeros(6, np.int64), names, 2, has_threshold=False)
    assert finding is not None
    assert (finding.code, finding.epoch) == ("class-never-predicted", 2)
    assert finding.message == "The model never predicts a class of the validation split: glioma (3 images)"
    assert finding.advice.startswith("Train for more epochs (trainer.epochs), or set loss.imbalance=weights")


def test_a_threshold_is_advised_where_there_is_one() -> None:
    targets, predicted = np.array([0, 0, 1]), np.zeros(3, np.int64)
    finding = diagnostics.class_never_predicted(targets, predicted, ("Healthy", "Tumor"), 2, has_threshold=True)
    assert finding is not None
    assert finding.message.startswith("At its threshold, the model never predicts")
    assert finding.advice.startswith("Set decision.threshold=youden if its AUROC is good; otherwise train for more epochs")


def test_files_of_two_modalities_are_reported_by_class() -> None:
    stated = [Stated("CT"), Stated("CT"), Stated("MR", "T1"), Stated(), Stated("CT")]
    finding = diagnostics.mixed_modalities(stated, ["Tumor", "Healthy", "Healthy", "Healthy", "Tumor"])
    assert finding is not None
    assert finding.message.endswith("more than one modality: Healthy (CT 1, MR 1, not stated 1), Tumor (CT 2)")
    assert "Train one model per modality" in finding.advice
    assert diagnostics.mixed_modalities([Stated("MR", "T1"), Stated("MR", "T2"), Stated()], ["a", "b", "b"]) is None


def test_files_that_are_no_slices_of_a_head_are_reported() -> None:
    stated = [Stated("CT", excluded="localizer, not a slice"), Stated("CT"), Stated(excluded="localizer, not a slice")]
    finding = diagnostics.not_slices(stated)
    assert finding is not None
    assert finding.message.startswith("2 of 3 images")
    assert finding.message.endswith("2: localizer, not a slice")
    assert diagnostics.not_slices(stated[1:2]) is None
