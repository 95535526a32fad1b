"""``torch.export``: a program that takes a slice and its head and runs in torch without reslink."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from reslink.export.graph import SLICE, WholeGraph, dynamic_shapes_of, example_inputs
from reslink.export.parity import Arrays, Runner

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

FILES: Final = ("model.pt2",)
_TRACES: Final = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "custom")
"""Metadata of torch for each node of the program, which can hold file names of this machine."""


def write(bundle: Bundle, folder: Path) -> None:
    """Writes ``model.pt2``; ``program.module()`` takes the inputs in order and returns a dictionary of outputs.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        graph = _NamedOutputs(bundle).eval().requires_grad_(False)
        program = torch.export.export(
            graph, example_inputs(SLICE, bundle.preprocess), dynamic_shapes={"inputs": dynamic_shapes_of(SLICE)}
        )
    for node in program.graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
    torch.export.save(program, folder / FILES[0])


def read_back(bundle: Bundle, folder: Path) -> Iterator[tuple[str, Runner]]:
    """Yields the program as ``torch.export.load`` reads the file that was just written."""
    module = torch.export.load(folder / FILES[0]).module()

    def call(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            outputs: dict[str, Any] = module(*(torch.from_numpy(inputs[name].copy()) for name in SLICE))
        return {name: value.numpy() for name, value in outputs.items()}

    yield FILES[0], Runner(bundle, SLICE, call)


class _NamedOutputs(torch.nn.Module):
    """The whole graph with its outputs by name."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.whole = WholeGraph(bundle)

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the outputs by name."""
        return dict(zip(self.whole.names, self.whole(*inputs), strict=True))
