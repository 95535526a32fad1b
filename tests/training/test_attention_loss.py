"""The loss term on the gates: what it measures, and that it moves attention."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reslink.datasets.manifest import Manifest
from reslink.training.losses import attention_loss, share_inside, target_mask
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import AttentionSupervisionSettings
from reslink.training.trainer import train

MASK = torch.zeros(1, 1, 8, 8)
MASK[:, :, :4, :4] = 1


def settings(**values: object) -> AttentionSupervisionSettings:
    return AttentionSupervisionSettings(**{"weight": 1.0, **values})


def test_even_gates_cost_the_log_of_the_share_of_the_area() -> None:
    even = {"final_attention": torch.full((1, 1, 4, 4), 0.3)}
    assert float(share_inside(even["final_attention"], MASK)) == pytest.approx(0.25, abs=1e-5)
    assert float(attention_loss(even, MASK, settings())) == pytest.approx(math.log(4), abs=1e-4)


def test_gates_inside_cost_nothing_and_outside_much() -> None:
    inside, outside = MASK.clone(), 1 - MASK
    assert float(attention_loss({"first_attention": inside}, MASK, settings())) == pytest.approx(0, abs=1e-4)
    assert float(attention_loss({"first_attention": outside}, MASK, settings())) > 5


def test_layers_and_empty_masks() -> None:
    gates = {"first_attention": MASK.clone(), "final_attention": 1 - MASK}
    first, final, both = (float(attention_loss(gates, MASK, settings(layers=name))) for name in ("first", "final", "both"))
    assert first < 0.01 < final
    assert both == pytest.approx((first + final) / 2)
    assert float(attention_loss(gates, torch.zeros_like(MASK), settings())) == 0
    assert float(attention_loss({}, MASK, settings())) == 0


def test_the_lesion_where_one_is_marked_the_head_elsewhere() -> None:
    heads, lesions = torch.ones(2, 1, 8, 8), torch.cat([MASK, torch.zeros_like(MASK)])
    found = target_mask(heads, lesions, settings(target="lesion"))
    assert torch.equal(found, torch.cat([MASK, torch.ones_like(MASK)]))
    assert torch.equal(target_mask(heads, lesions, settings(target="head")), heads)
    assert torch.equal(target_mask(heads, None, settings(target="lesion")), heads)


def last_epoch(run: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "epoch"][-1]


def test_it_moves_attention_into_the_head(toy: Manifest, recipe: Callable[..., Recipe], tmp_path: Path, cache: Path) -> None:
    whole = ("preprocess.isolate_head=false", "trainer.epochs=12", "optimizer.lr=0.01")
    train(toy, recipe(*whole), tmp_path / "free", cache=cache)
    train(toy, recipe(*whole, "attention_supervision.weight=1"), tmp_path / "led", cache=cache)
    free, led = last_epoch(tmp_path / "free"), last_epoch(tmp_path / "led")
    for layer in ("first_attention", "final_attention"):
        assert led[f"{layer}_mass_outside_head"] < 0.7 * free[f"{layer}_mass_outside_head"]


def test_it_moves_attention_to_the_lesion(marked: Manifest, recipe: Callable[..., Recipe], tmp_path: Path, cache: Path) -> None:
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.networks.area_attention import record_gates

    shares = {}
    for weight in (0, 1):
        sets = (f"attention_supervision.weight={weight}", "attention_supervision.target=lesion", "trainer.epochs=15")
        made = recipe(*sets, "optimizer.lr=0.02", "trainer.export=last")
        result = train(marked, made, tmp_path / str(weight), cache=cache)
        network = Bundle.load(result.bundle).network()
        pixels = PixelCache.open(marked, made.preprocess, cache, workers=0)
        with_lesion = [i for i in range(len(pixels)) if pixels.has_mask[i]]
        x = torch.from_numpy(made.preprocess.normalise(pixels.pixels[with_lesion]))
        with record_gates(network) as gates, torch.no_grad():
            network(x)
        masks = pixels.batch_masks(with_lesion)
        assert masks is not None
        shares[weight] = float(share_inside(gates["first_attention"], masks).mean())
    assert shares[1] > 1.5 * shares[0]
