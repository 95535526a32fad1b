"""Several processes under torchrun, on the CPU with gloo."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.training.distributed import deterministic, make_accelerator, uses_bf16
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import TrainerSettings
from reslink.training.sampling import plan_epoch

SCRIPT = """
import sys
from reslink.datasets.manifest import Manifest
from reslink.training.recipe.recipe import load_recipe
from reslink.training.trainer import train

data, recipe, out, cache, report = sys.argv[1:]
import os
result = train(Manifest.open(data), load_recipe(recipe), out, cache=cache)
open(report + os.environ["RANK"], "w").write(repr((result.validation, result.best_epoch, result.epochs)))
"""


def start(folder: Path, toy: Manifest, recipe: Recipe, cache: Path) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["script.py", str(toy.root), "recipe.yaml", "run", str(cache), "rank"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_two_processes_train_one_network(toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path) -> None:
    made = recipe("trainer.epochs=3", "optimizer.lr=0.01", "loss.mixup=0.2")
    done = start(tmp_path, toy, made, cache)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    run = tmp_path / "run"
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    with (run / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    # both processes' images are in the figures, and they are those of the exported weights
    bundle = Bundle.load(run / "bundle")
    with (run / "splits.csv").open() as stream:
        parts = {row["sample_id"]: row["split"] for row in csv.DictReader(stream)}
    pixels = PixelCache.open(toy, bundle.preprocess, cache, workers=0)
    where = [i for i, case in enumerate(pixels.manifest.cases) if parts[case.name] == "validation"]
    with torch.no_grad():
        logits = bundle.network()(torch.from_numpy(bundle.preprocess.normalize(pixels.pixels[where]))).double()
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(pixels.targets[where]))
    best = min(rows, key=lambda row: (-float(row["val_auroc"]), float(row["val_loss"])))
    assert float(best["val_loss"]) == pytest.approx(float(expected), rel=1e-5)
    steps = len(plan_epoch(np.arange(list(parts.values()).count("train")), 8, 0, 1))
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[1].endswith(f"-step-{3 * steps}")


def test_a_batch_too_small_for_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda _self: 4))
    with pytest.raises(UsageError, match=r"batch_size is 4 for 4 processes.*Set trainer.batch_size to 8"):
        make_accelerator(TrainerSettings(batch_size=4, device="cpu"))


def test_precision_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uses_bf16(TrainerSettings(precision="bf16"), cpu=True)
    assert not uses_bf16(TrainerSettings(precision="fp32"), cpu=True)
    for found in ({"avx512_bf16": True}, {"amx_bf16": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert uses_bf16(TrainerSettings(), cpu=True) == bool(found)


def test_determinism_is_enabled_and_restored() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.are_deterministic_algorithms_enabled() == before
