"""Losses against torch, kornia and each other."""

from __future__ import annotations

import math

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reslink.training.losses import (
    Criterion,
    attention_loss,
    attention_share_inside,
    class_weights,
    make_criterion,
    mixup,
    target_mask,
    two_logits,
)
from reslink.training.recipe.schema import AttentionSupervisionSettings, LossSettings


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 0])


def losses(logits: torch.Tensor, labels: torch.Tensor, **settings: object) -> torch.Tensor:
    criterion = Criterion(LossSettings(**{"label_smoothing": 0.0, **settings}), labels.numpy(), max(2, logits.shape[1]))
    return criterion(logits, criterion.targets(labels))


def test_plain_and_smoothed_are_torchs_cross_entropy(logits: torch.Tensor) -> None:
    for smoothing in (0.0, 0.1, 0.3):
        expected = F.cross_entropy(logits, LABELS, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(losses(logits, LABELS, label_smoothing=smoothing), expected)


def test_weights_balance_the_classes(logits: torch.Tensor) -> None:
    expected = F.cross_entropy(logits, LABELS, weight=torch.tensor([12 / 21, 12 / 9, 12 / 6]), reduction="none")
    torch.testing.assert_close(losses(logits, LABELS, imbalance="weights"), expected)
    weights = class_weights(LABELS.numpy(), 3)
    assert np.mean([weights[label] for label in LABELS]) == pytest.approx(1)
    assert class_weights(np.array([0, 0, 2]), 3)[1] == 1


def test_focal_is_kornias(logits: torch.Tensor) -> None:
    expected = kornia.losses.focal_loss(logits, LABELS, alpha=None, gamma=2.0, reduction="none").sum(dim=1)
    torch.testing.assert_close(losses(logits, LABELS, imbalance="focal", focal_gamma=2.0), expected)
    torch.testing.assert_close(
        losses(logits, LABELS, imbalance="focal", focal_gamma=0.0), losses(logits, LABELS), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}, {"imbalance": "weights"}, {"imbalance": "focal"}])
def test_a_single_logit_is_two_logits_of_which_the_first_is_zero(settings: dict[str, object]) -> None:
    single = torch.linspace(-4, 4, 8)[:, None]
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0])
    torch.testing.assert_close(losses(single, labels, **settings), losses(two_logits(single), labels, **settings))
    if not settings:
        expected = F.binary_cross_entropy_with_logits(single[:, 0], labels.float(), reduction="none")
        torch.testing.assert_close(losses(single, labels), expected)


def test_mixup_mixes_images_and_targets_alike() -> None:
    x, targets = torch.arange(8.0).view(8, 1, 1, 1), F.one_hot(torch.arange(8), 8).float()
    mixed_x, mixed = mixup(0.5, np.random.default_rng(1), x, targets)
    torch.testing.assert_close((mixed * torch.arange(8.0)).sum(dim=1), mixed_x.flatten())
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(8))
    assert not torch.equal(mixed, targets)
    for same, given in zip(mixup(0.0, np.random.default_rng(1), x, targets), (x, targets), strict=True):
        assert same is given


def test_mixed_targets_give_mixed_losses(logits: torch.Tensor) -> None:
    criterion = Criterion(LossSettings(label_smoothing=0.1), LABELS.numpy(), 3)
    one, other = criterion.targets(LABELS), criterion.targets(LABELS.flip(0))
    expected = 0.3 * criterion(logits, one) + 0.7 * criterion(logits, other)
    torch.testing.assert_close(criterion(logits, 0.3 * one + 0.7 * other), expected)


MASK = torch.zeros(1, 1, 8, 8)
MASK[:, :, :4, :4] = 1


def supervision(**values: object) -> AttentionSupervisionSettings:
    return AttentionSupervisionSettings(**{"weight": 1.0, **values})


def test_uniform_attention_costs_the_log_of_the_area_share() -> None:
    even = {"final_attention": torch.full((1, 1, 4, 4), 0.3)}
    assert float(attention_share_inside(even["final_attention"], MASK)) == pytest.approx(0.25, abs=1e-5)
    assert float(attention_loss(even, MASK, supervision())) == pytest.approx(math.log(4), abs=1e-4)


def test_attention_inside_costs_nothing_and_outside_much() -> None:
    inside, outside = MASK.clone(), 1 - MASK
    assert float(attention_loss({"first_attention": inside}, MASK, supervision())) == pytest.approx(0, abs=1e-4)
    assert float(attention_loss({"first_attention": outside}, MASK, supervision())) > 5


def test_layers_and_empty_masks() -> None:
    gates = {"first_attention": MASK.clone(), "final_attention": 1 - MASK}
    first, final, both = (float(attention_loss(gates, MASK, supervision(layers=name))) for name in ("first", "final", "both"))
    assert first < 0.01 < final
    assert both == pytest.approx((first + final) / 2)
    assert float(attention_loss(gates, torch.zeros_like(MASK), supervision())) == 0
    assert float(attention_loss({}, MASK, supervision())) == 0


def test_the_lesion_where_one_is_marked_the_head_elsewhere() -> None:
    heads, lesions = torch.ones(2, 1, 8, 8), torch.cat([MASK, torch.zeros_like(MASK)])
    target = target_mask(heads, lesions, supervision(target="lesion"))
    assert torch.equal(target, torch.cat([MASK, torch.ones_like(MASK)]))
    assert torch.equal(target_mask(heads, lesions, supervision(target="head")), heads)
    assert torch.equal(target_mask(heads, None, supervision(target="lesion")), heads)


# Several labels at once


def several(**settings):
    states = np.array([[1, 0], [0, 0], [0, -1], [0, 1]])
    return make_criterion(LossSettings(**{"label_smoothing": 0, **settings}), states, 2), torch.from_numpy(states)


def test_an_unknown_label_adds_nothing_to_loss_and_gradient():
    criterion, states = several(label_smoothing=0.1)
    logits = torch.randn(4, 2, requires_grad=True)
    losses = criterion(logits, criterion.targets(states))
    losses.sum().backward()
    assert logits.grad[2, 1] == 0
    assert (logits.grad.flatten() != 0).sum() == 7
    changed = logits.detach().clone()
    changed[2, 1] += 5
    assert torch.equal(criterion(changed, criterion.targets(states)), losses)


def test_known_labels_have_the_binary_cross_entropy():
    criterion, states = several()
    logits, known = torch.randn(4, 2), states >= 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, states.clamp(min=0).float(), reduction="none")
    assert torch.allclose(criterion(logits, criterion.targets(states)), (expected * known).sum(dim=1) / 2)


def test_weights_balance_each_label_by_its_known_images():
    criterion, _ = several(imbalance="weights")
    assert criterion.weights.tolist() == pytest.approx(np.array([[4 / 6, 2.0], [0.75, 1.5]]))


def test_mixup_of_an_unknown_label_is_unknown():
    criterion, states = several()
    targets = criterion.targets(states)
    (mixed,) = mixup(0.4, np.random.default_rng(1), targets)
    assert mixed[:, 0].isnan().sum() == 0
    assert mixed[2, 1].isnan()
    assert criterion(torch.zeros(4, 2), mixed).isfinite().all()


def test_focal_loss_gives_easy_labels_less_weight():
    plain, states = several()
    focal, _ = several(imbalance="focal")
    targets = plain.targets(states)
    logits = (targets.nan_to_num() - 0.5) * 8
    assert (focal(logits, targets) < 0.01 * plain(logits, targets)).all()


def test_the_share_of_correct_known_labels_is_counted():
    criterion, states = several()
    logits = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 9.0], [1.0, -1.0]])
    assert criterion.correct(logits, criterion.targets(states)) == pytest.approx(1 + 0.5 + 1 + 0)
