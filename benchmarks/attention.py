"""Compares area attention with other attention of equal width at the same two places of `reslink_small`.

Run: python benchmarks/attention.py [--rounds 15] [--size 224] [--precision bf16] [--sides 14 28 56 112]
     python benchmarks/attention.py --data DATA --epochs 5 --seeds 0 1 2 --out RESULTS.jsonl

Times are processor time of one thread for forward and backward. Each round times every kind once, in turn. A ratio is
the median over rounds of (time of the kind) / (time of area attention) in the same round. The two dot-product kinds are
residual branches after a LayerNorm, as in their papers, without the MLP that follows there.

With --data each network is trained with the same images, split (data.split_seed = 0), order, augmentation and schedule.
Muon optimizes the weight matrices of every kind of attention. AUROC and accuracy are those of the test split, with 95 %
intervals over groups. Runs that are already in the file are skipped. Research use only.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import budget
import budget_tables
import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.nets.swin_unetr import WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.networks.area_attention import AreaAttention
from reslink.networks.reslink import ResLink, ResLinkConfig, build_network, variant_config
from reslink.training.data import open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.optim.muon import Muon
from reslink.training.recipe.recipe import load_recipe
from reslink.training.recipe.schema import OptimizerSettings
from reslink.training.seeding import torch_seed

PLACES = ("first_attention", "final_attention")
HEAD_WIDTH = 32
"""Channels per head of dot-product attention, as in Swin (arXiv 2103.14030, section 3.3)."""
SQUEEZE = 16
"""Reduction of SE and CBAM in their papers; the hidden layer keeps at least ``LEAST_HIDDEN`` channels."""
LEAST_HIDDEN = 4


def _hidden(channels: int) -> int:
    return max(LEAST_HIDDEN, channels // SQUEEZE)


class CBAM(nn.Module):
    """Channel attention, then spatial attention: Woo et al. 2018, arXiv 1807.06521, eq. 2 and 3 (r = 16, 7×7 convolution).

    No installed library has it. MONAI's SE layer is the channel part with mean pooling only.

    Args:
        channels: Channels C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _hidden(channels)
        self.shared = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the weighted map, same shape as x (B, C, H, W)."""
        channel = torch.sigmoid(self.shared(x.mean(dim=(2, 3))) + self.shared(x.amax(dim=(2, 3))))
        x = x * channel[..., None, None]
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class WindowSelfAttention(nn.Module):
    """x + W-MSA(LN(x)) in non-overlapping windows with relative positions: Liu et al. 2021, arXiv 2103.14030, eq. 3 and 4.

    Uses MONAI's ``WindowAttention``. Padding at the border is masked.

    Args:
        channels: Channels C of the map.
        window: Side of a window in pixels.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = (window, window)
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, max(1, channels // HEAD_WIDTH), self.window, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attended map, same shape as x (B, C, H, W)."""
        batch, _, height, width = x.shape
        bottom, right = -height % self.window[0], -width % self.window[1]
        tokens = F.pad(self.norm(x.permute(0, 2, 3, 1)), (0, 0, 0, right, 0, bottom))
        size = [batch, height + bottom, width + right]
        mask = self._mask(x, size, height, width) if bottom or right else None
        attended: Tensor = self.attention(window_partition(tokens, self.window), mask)
        attended = window_reverse(attended.view(-1, *self.window, x.shape[1]), self.window, size)
        return x + attended[:, :height, :width].permute(0, 3, 1, 2)

    def _mask(self, x: Tensor, size: Sequence[int], height: int, width: int) -> Tensor:
        """Returns (windows, pixels, pixels): −100 where a window would attend to padding, as in Swin."""
        filled = x.new_ones(1, size[1], size[2], 1, dtype=torch.float32)
        filled[:, :height, :width] = 0
        windows: Tensor = window_partition(filled, self.window).squeeze(-1)
        return (-100.0 * windows)[:, None, :].expand(-1, windows.shape[1], -1)


class SelfAttention(nn.Module):
    """x + MSA(LN(x)) over all pixels: Vaswani et al. 2017, arXiv 1706.03762, with torch's fused kernel.

    Args:
        channels: Channels C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, max(1, channels // HEAD_WIDTH), batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the attended map, same shape as x (B, C, H, W)."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        attended: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + attended.transpose(1, 2).reshape(x.shape)


def _squeeze(channels: int, _area: int) -> nn.Module:
    """Squeeze and excitation of MONAI: Hu et al. 2018, arXiv 1709.01507."""
    return cast(nn.Module, ChannelSELayer(spatial_dims=2, in_channels=channels, r=channels // _hidden(channels)))


KINDS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "area": AreaAttention,
    "none": lambda _channels, _area: nn.Identity(),
    "se": _squeeze,
    "cbam": lambda channels, _area: CBAM(channels),
    "window": WindowSelfAttention,
    "self_attention": lambda channels, _area: SelfAttention(channels),
}


def with_attention(kind: str, config: ResLinkConfig, seed: int = 0) -> ResLink:
    """Returns a network with another kind of attention at both places; all other initial weights are the same for every kind.

    Args:
        kind: One of ``KINDS``.
        config: Configuration of the network.
        seed: Seed of the initial weights.
    """
    network = build_network(config, seed)
    if kind == "area":
        return network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module_name, channels in zip(PLACES, (config.stem_dim, config.dims[-1]), strict=True):
            setattr(network, module_name, KINDS[kind](channels, config.area_size))
    return network


def optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Returns Muon with AdamW; Muon also optimizes the weight matrices of other attention.

    AdamW optimizes position tables and convolutions to one channel, as it does for the outputs of area attention.
    """
    assert isinstance(network, ResLink)
    hidden, decayed, plain = network.parameter_groups(settings.weight_decay)
    for module_name in PLACES:
        module = getattr(network, module_name)
        if isinstance(module, AreaAttention):
            continue
        added = {id(p): (name, p) for name, p in module.named_parameters() if p.ndim > 1}
        for group in (hidden, decayed):
            group["params"] = [p for p in group["params"] if id(p) not in added]
        for name, parameter in added.values():
            inner = parameter.ndim == 2 and "position" not in name
            (hidden if inner else decayed)["params"].append(parameter)
    return Muon([hidden, decayed, plain], settings.lr, fused=True)


def flops(module: nn.Module, shape: Sequence[int]) -> int:
    """Returns the FLOPs of convolutions and matrix products of one forward pass; a multiply-add counts as two.

    Args:
        module: The module; not changed.
        shape: Shape of its input.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        copy.deepcopy(module).eval().to("meta")(torch.empty(*shape))
    return int(counter.get_total_flops())


def _pass(module: nn.Module, x: Tensor, *, bf16: bool) -> float:
    """Returns the processor time of forward and backward, including the gradient of the input."""
    module.zero_grad(set_to_none=True)
    x.grad, start = None, time.process_time()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        out = module(x)
    out.float().sum().backward()
    return time.process_time() - start


def rounds(modules: Mapping[str, Sequence[tuple[nn.Module, Tensor]]], count: int, *, bf16: bool) -> dict[str, list[float]]:
    """Times the modules in turn, ``count`` times each after one warm-up round; returns seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for index in range(count + 1):
        for name, parts in modules.items():
            taken = sum(_pass(module, x, bf16=bf16) for module, x in parts)
            if index:
                seconds[name].append(taken)
    return seconds


def _map(batch: int, channels: int, side: int) -> Tensor:
    x = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def _channels_last(module: nn.Module) -> nn.Module:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    return module


def _module(kind: str, channels: int, area: int) -> nn.Module:
    return _channels_last(KINDS[kind](channels, area)).train()


def _ratio(seconds: Mapping[str, list[float]], kind: str) -> float:
    return statistics.median(time / area for time, area in zip(seconds[kind], seconds["area"], strict=True))


def costs(options: argparse.Namespace) -> list[str]:
    """Returns the table of the cost of each kind at its two places and in the whole network."""
    config = variant_config("reslink_small", area_size=options.area_size)
    bf16 = options.precision == "bf16"
    maps = [(config.stem_dim, options.size // 4), (config.dims[-1], options.size // config.stride)]
    alone = {
        kind: [(_module(kind, c, config.area_size), _map(options.batch_size, c, side)) for c, side in maps]
        for kind in KINDS
        if kind != "none"
    }
    images = _map(options.batch_size, 3, options.size)
    whole = {kind: [(_channels_last(with_attention(kind, config)), images)] for kind in KINDS}
    both, networks = rounds(alone, options.rounds, bf16=bf16), rounds(whole, options.rounds, bf16=bf16)
    lines = [
        f"`reslink_small`, {options.size}×{options.size}, batch {options.batch_size}, {options.precision}, one thread; maps "
        + " and ".join(f"{side}×{side}×{c}" for c, side in maps),
        "",
        "| attention | parameters | MFLOPs an image | ms, both places | × area | × area, whole network |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind in KINDS:
        count = sum(p.numel() for module, _ in alone.get(kind, []) for p in module.parameters())
        work = sum(flops(_module(kind, c, config.area_size), (1, c, side, side)) for c, side in maps) if count else 0
        ms = f"{1000 * statistics.median(both[kind]):.1f} | {_ratio(both, kind):.2f}" if kind in both else "– | –"
        lines.append(f"| {kind} | {count:,} | {work / 1e6:.2f} | {ms} | {_ratio(networks, kind):.2f} |")
    return lines


def growth(options: argparse.Namespace) -> list[str]:
    """Returns the table of the time of each kind by side of the map."""
    kinds = [kind for kind in KINDS if kind != "none"]
    lines = [
        f"ms of forward and backward on maps of {options.channels} channels, batch {options.growth_batch}, {options.precision}",
        "",
        "| attention | " + " | ".join(f"{side}×{side}" for side in options.sides) + " | exponent of the pixels |",
        "|---|" + "--:|" * (len(options.sides) + 1),
    ]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for side in options.sides:
        parts = {
            kind: [
                (_module(kind, options.channels, options.area_size), _map(options.growth_batch, options.channels, side)),
            ]
            for kind in kinds
        }
        for kind, seconds in rounds(parts, options.rounds, bf16=options.precision == "bf16").items():
            times[kind].append(1000 * statistics.median(seconds))
    for kind in kinds:
        lines.append(
            f"| {kind} | " + " | ".join(f"{ms:.2f}" for ms in times[kind]) + f" | {_slope(options.sides, times[kind])} |"
        )
    return lines


def _slope(sides: Sequence[int], ms: Sequence[float]) -> str:
    """Returns the exponent between the two largest maps: 1 is linear in the number of pixels, 2 quadratic."""
    if len(sides) < 2:
        return "–"
    (a, b), (x, y) = sides[-2:], ms[-2:]
    return f"{math.log(y / x) / math.log(b * b / (a * a)):.2f}"


def accuracy(options: argparse.Namespace) -> None:
    """Trains every kind with every seed and prints the metrics of the test split."""
    changes = [f"trainer.epochs={options.epochs}", "data.split_seed=0", "trainer.device=cpu"]
    training_data = open_training_data(
        Manifest.open(options.data), load_recipe(options.recipe, changes), options.cache, SilentProgress()
    )
    for seed in options.seeds:
        recipe = load_recipe(options.recipe, [*changes, f"seed={seed}"])
        for kind in options.kinds:
            who = {
                "data": options.data.name,
                "data_digest": training_data.digest,
                "kind": kind,
                "recipe_digest": recipe.digest(),
            }
            rows = budget_tables.read(options.out)
            if any(all(row.get(key) == value for key, value in who.items()) for row in rows):
                continue
            network = with_attention(kind, recipe.reslink(len(training_data.manifest.labels)), torch_seed(seed, "weights"))
            trainee = budget.Trainee(recipe, training_data, network, partial(optimizer, settings=recipe.optimizer))
            clock = budget.Steps(recipe.trainer.epochs * trainee.steps_an_epoch())
            trainee.train(clock)
            last = budget.moment_row(trainee.evaluate(clock, last=True))
            row = {**who, "seed": seed, "epochs": options.epochs, "seconds": round(clock.used, 1), "validation": last}
            budget_tables.append(options.out, {**row, **budget.test_metrics(trainee)})
            print(f"{options.data.name} {kind} seed {seed}: {_metrics([budget_tables.read(options.out)[-1]])}", flush=True)
    print("\n".join(accuracy_table(budget_tables.read(options.out))))


def _metrics(rows: Sequence[dict[str, Any]]) -> str:
    metrics = [budget_tables.interval(rows, name) for name in ("auroc", "accuracy")]
    return " | ".join([*metrics, f"{statistics.median(row['seconds'] for row in rows):.0f} s"])


def accuracy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table of a results file: means over seeds, with the mean ends of the intervals."""
    lines = [
        "| data, epochs | attention | seeds | test AUROC | test accuracy | training, one thread |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for data, epochs in dict.fromkeys((row["data"], row["epochs"]) for row in rows):
        for kind in KINDS:
            matching = [row for row in rows if (row["data"], row["epochs"], row["kind"]) == (data, epochs, kind)]
            if matching:
                lines.append(f"| {data}, {epochs} | {kind} | {len(matching)} | {_metrics(matching)} |")
    return lines


def main() -> None:
    """Prints the tables of cost, or with --data the table of accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--batch-size", type=int, default=16, help="images per step")
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    parser.add_argument("--area-size", type=int, default=7, help="side of an area and of a window")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="precision of autocast")
    parser.add_argument("--sides", type=int, nargs="+", default=[14, 28, 56, 112], help="sides of the map in pixels")
    parser.add_argument("--channels", type=int, default=64, help="channels of the map with growing side")
    parser.add_argument("--growth-batch", type=int, default=2, help="images per step for growing maps")
    parser.add_argument("--data", type=Path, help="train on this data set instead of timing")
    parser.add_argument(
        "--recipe",
        default="small_20",
        help="recipe of the runs: a YAML file or the name of a published recipe",
    )
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds to train")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of attention")
    parser.add_argument("--out", type=Path, default=Path("runs/attention.jsonl"), help="results file, one JSON object per line")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="cache of decoded images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if options.data:
            accuracy(options)
        else:
            print("\n".join([*costs(options), "", *growth(options)]))
    except ReslinkError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
