"""``torch.export``: a program from a slice and its head to everything, which runs in torch without reslink."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from reslink.export.graph import SLICE, WholeGraph, dynamic, examples
from reslink.export.parity import Arrays, Runner

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

FILES: Final = ("model.pt2",)
_TRACES: Final = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "custom")
"""What torch notes of each node of the program: among it names of files of this machine."""


def write(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Writes ``model.pt2``; ``program.module()`` takes the inputs in order and returns a dictionary of outputs.

    Returns:
        The names of the files.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        graph = _Named(bundle).eval().requires_grad_(False)
        program = torch.export.export(graph, examples(SLICE, bundle.preprocess), dynamic_shapes={"fed": dynamic(SLICE)})
    for node in program.graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
    torch.export.save(program, folder / FILES[0])
    return FILES


def read_back(bundle: Bundle, folder: Path) -> Iterator[tuple[str, Runner]]:
    """Yields the program as ``torch.export.load`` reads the file that was just written."""
    module = torch.export.load(folder / FILES[0]).module()

    def call(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found: dict[str, Any] = module(*(torch.from_numpy(inputs[name].copy()) for name in SLICE))
        return {name: value.numpy() for name, value in found.items()}

    yield FILES[0], Runner(bundle, SLICE, call)


class _Named(torch.nn.Module):
    """The whole graph with its outputs by name."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.whole = WholeGraph(bundle)

    def forward(self, *fed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the outputs by name."""
        return dict(zip(self.whole.names, self.whole(*fed), strict=True))
