"""Measures where the time of a training step goes: each kind of operator, beside the least time that the machine allows.

Run: python benchmarks/step_operators.py [--network reslink_context] [--precision bf16] [--batch-size 16] [--steps 20]

The step is that of train_step.py, with one thread. The least time of an operator is the larger of its FLOPs at the rate of a
matrix product in the same precision, and the bytes of its inputs and outputs at the rate of a copy of 128 MiB (roofline model:
Williams, Waterman and Patterson, CACM 2009). Products and copies are timed between the steps. The rest is the time outside of
operators: Python, autograd and the allocation of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import train_step
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

KINDS: Mapping[str, Sequence[str]] = {
    "convolution, forward": ["convolution"],
    "convolution, backward": ["convolution_backward"],
    "BatchNorm": ["native_batch_norm", "native_batch_norm_backward"],
    "ReLU": ["relu", "threshold_backward"],
    "max-pooling": ["max_pool2d_with_indices", "max_pool2d_with_indices_backward"],
    "dropout and attention: products": ["mul", "bernoulli_", "div_", "div", "sigmoid", "sigmoid_backward"],
    "residual sums": ["add", "add_"],
    "change of type": ["_to_copy"],
    "AdamW": ["_fused_adamw_", "_foreach_add_"],
}
OTHER = "other operators"
COPIED = 1 << 27


@dataclass
class Work:
    """Seconds, FLOPs and bytes of operators, and the least seconds they need.

    Attributes:
        seconds: Processor time.
        flops: Operations of convolutions and matrix products; a multiply-add counts as two.
        moved: Bytes of all inputs and outputs.
        least: Sum over operators of the larger of both limits, in seconds.
    """

    seconds: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    least: float = 0.0


class Timer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has not annotated it
    """Times every operator.

    Args:
        flop_rate: FLOPs per second of a matrix product.
        byte_rate: Bytes per second of a copy, reads and writes together.

    Attributes:
        work: The work of each operator by its name.
    """

    def __init__(self, flop_rate: float, byte_rate: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop_rate, self.byte_rate = flop_rate, byte_rate
        self.work: dict[str, Work] = defaultdict(Work)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator."""
        kwargs = kwargs or {}
        start = time.process_time()
        result = func(*args, **kwargs)
        seconds = time.process_time() - start
        count = flop_registry.get(func.overloadpacket)
        flops = 0 if count is None else count(*args, **kwargs, out_val=result)
        tensors = {t.data_ptr(): t.nbytes for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
        moved = 0 if func.is_view else sum(tensors.values())
        row = self.work[func.overloadpacket.__name__]
        row.seconds, row.flops, row.moved = row.seconds + seconds, row.flops + flops, row.moved + moved
        row.least += max(flops / self.flop_rate, moved / self.byte_rate)
        return result


def rates(settings: train_step.StepSettings) -> tuple[float, float]:
    """Returns the FLOPs per second of a matrix product, and the bytes per second of a copy."""
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.ones_like(source)
    product = train_step.product(settings)

    def copy() -> None:
        target.copy_(source)

    seconds = train_step.seconds_of(product, "cpu"), train_step.seconds_of(copy, "cpu")
    return 2 * train_step.MATRIX["cpu"] ** 3 / seconds[0], 2 * COPIED / seconds[1]


def measure(name: str, steps: int, settings: train_step.StepSettings) -> dict[str, Any]:
    """Returns the rates, the seconds of a step, and the work of each kind of operator in a step; medians over steps."""
    step = train_step.one_step(train_step.network(name, settings.size), *train_step.batch(settings), settings)
    for _ in range(3):
        step()
    measured = [rates(settings) for _ in range(5)]
    flop_rate, byte_rate = (statistics.median(column) for column in zip(*measured, strict=True))
    whole = statistics.median(train_step.seconds_of(step, "cpu") for _ in range(steps))
    timed = [_timed(step, flop_rate, byte_rate) for _ in range(steps)]
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    rows: dict[str, Work] = {kind: Work() for kind in (*KINDS, OTHER)}
    for operator, first in timed[0].items():
        row = rows[kind_of.get(operator, OTHER)]
        row.seconds += statistics.median(work[operator].seconds for work in timed)
        row.flops, row.moved, row.least = row.flops + first.flops, row.moved + first.moved, row.least + first.least
    return {"flop_rate": flop_rate, "byte_rate": byte_rate, "step": whole, "rows": rows}


def _timed(step: Callable[[], None], flop_rate: float, byte_rate: float) -> dict[str, Work]:
    timer = Timer(flop_rate, byte_rate)
    with timer:
        step()
    return timer.work


def table(result: dict[str, Any]) -> list[str]:
    """Returns the lines of a CSV table."""
    lines = ["operators,ms a step,share of the step,GFLOP,MB moved,least ms,limit"]
    rows: dict[str, Work] = result["rows"]
    for kind, row in rows.items():
        bound = "matrix product" if row.flops / result["flop_rate"] > row.moved / result["byte_rate"] else "memory"
        share = row.seconds / result["step"]
        cells = [f"{1000 * row.seconds:.1f}", f"{share:.2f}", f"{row.flops / 1e9:.1f}" if row.flops else ""]
        lines.append(",".join([f'"{kind}"', *cells, f"{row.moved / 1e6:.0f}", f"{1000 * row.least:.1f}", bound]))
    total, least = result["step"], sum(row.least for row in rows.values())
    rest = total - sum(row.seconds for row in rows.values())
    lines.append(f'"rest: Python, autograd",{1000 * rest:.1f},{rest / total:.2f},,,,')
    flops, moved = sum(row.flops for row in rows.values()), sum(row.moved for row in rows.values())
    lines.append(f"the step,{1000 * total:.1f},1.00,{flops / 1e9:.1f},{moved / 1e6:.0f},{1000 * least:.1f},")
    return lines


def main() -> None:
    """Prints the table as CSV, and the rates and shares of the limit as a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=train_step.NETWORKS, default="reslink_context", help="network")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="precision of the products")
    parser.add_argument("--batch-size", type=int, default=16, help="images per step")
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = train_step.StepSettings(options.batch_size, options.size, options.precision == "bf16", compiled=False)
    result = measure(options.network, options.steps, settings)
    print("\n".join(table(result)))
    flops, least = (sum(getattr(row, key) for row in result["rows"].values()) for key in ("flops", "least"))
    summary = {
        "GFLOP/s": result["flop_rate"] / 1e9,
        "GB/s": result["byte_rate"] / 1e9,
        "share of the limit": flops / result["flop_rate"] / result["step"],
        "highest share that memory allows": flops / result["flop_rate"] / least,
    }
    print(json.dumps({key: round(value, 2) for key, value in summary.items()}))


if __name__ == "__main__":
    main()
