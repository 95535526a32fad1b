"""The start of a fine-tuned network: which weights it takes over from its parent, and which of its modules are frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslink.bundles.bundle import Bundle
from reslink.errors import UsageError, listed, suggest
from reslink.labels import Labels
from reslink.networks.build import build_network
from reslink.networks.network import Network
from reslink.training.recipe.differences import differences
from reslink.training.recipe.inheritance import find_parent
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import Row
from reslink.training.seeding import torch_seed

_SHOWN: Final = 6


@dataclass(frozen=True, eq=False)
class Initialization:
    """The weights that a network takes over from its parent.

    Attributes:
        parent: The parent.
        tensors: The weights and BatchNorm statistics that are taken over, by name.
        converted: How a weight was changed to fit, by name.
        new: Why a weight is not taken over, by name.
        sizes: Number of values of each trainable weight of the network, by name.
        settings: Settings of ``model`` and ``preprocess`` that differ from the parent, in words.
        freeze: Modules that are not trained.
        lr_factor: Factor of the learning rate of the weights that are taken over.
    """

    parent: Bundle
    tensors: Mapping[str, Tensor]
    converted: Mapping[str, str]
    new: Mapping[str, str]
    sizes: Mapping[str, int]
    settings: Sequence[str]
    freeze: Sequence[str]
    lr_factor: float

    @classmethod
    def from_recipe(cls, recipe: Recipe, labels: Labels) -> Initialization | None:
        """Reads the parent of a recipe; returns None if the recipe has none.

        Args:
            recipe: The recipe.
            labels: The classes of the data.

        Raises:
            BundleError: If the parent cannot be read.
            UsageError: If none of its weights fits, or ``init.freeze`` names no module, new weights, or every weight.
        """
        if recipe.init.parent is None:
            return None
        builder = recipe.builder()
        parent = Bundle.load(find_parent(recipe.init.parent), builder)
        network = build_network(recipe.network(len(labels)), torch_seed(recipe.seed, "weights"), builder, recipe.trainer.case)
        tensors, converted, new = _match(parent, network, labels)
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        if not sizes.keys() & tensors.keys():
            raise UsageError(
                f"No weight of {recipe.init.parent} fits the network of the recipe",
                "A weight is taken over where name and shape agree",
                "Leave out the keys of the section model, or choose another parent",
            )
        _check_freeze(recipe.init.freeze, network, new)
        own = {
            "model": recipe.architecture(len(labels)),
            "preprocess": recipe.preprocess.model_dump(mode="json"),
        }
        theirs = {"model": {**parent.architecture}, "preprocess": parent.preprocess.model_dump(mode="json")}
        settings = tuple(differences(theirs, own))
        return cls(parent, tensors, converted, new, sizes, settings, recipe.init.freeze, recipe.init.lr_factor)

    def apply(self, network: Network) -> None:
        """Copies the weights to a new network and freezes its frozen modules."""
        network.load_state_dict(network.state_dict() | dict(self.tensors))
        for name, module in network.named_modules():
            if _is_below(name, self.freeze):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
                if isinstance(module, _BatchNorm):
                    module.eval()

    def lr_factors(self) -> dict[str, float]:
        """Returns the factor of the learning rate of each weight that is taken over, by name."""
        return {name: self.lr_factor for name in self.sizes if name in self.tensors}

    @property
    def name(self) -> str:
        """Name of the parent."""
        return self.parent.name or "the parent"

    def messages(self) -> Iterator[str]:
        """Yields what is taken over, in sentences."""
        architecture, preprocess = self.parent.architecture, self.parent.preprocess
        shape = f"{preprocess.channels}×{preprocess.size}×{preprocess.size}"
        changed = f"; changed: {'; '.join(self.settings)}" if self.settings else ""
        yield f"Fine-tuning {self.name}: {architecture['name']}, input {shape}, window {preprocess.window}{changed}."
        if not self.parent.knows_seen_images:
            yield f"The training images of {self.name} are not all known: the test images may be among them."
        taken, total = sum(size for name, size in self.sizes.items() if name in self.tensors), sum(self.sizes.values())
        yield f"Taken over: {taken:,} of {total:,} weights, with {self.lr_factor:g} of the learning rate."
        for names in (self.converted, self.new):
            by_reason: dict[str, list[str]] = {}
            for name, reason in names.items():
                by_reason.setdefault(reason, []).append(name)
            for reason, group in by_reason.items():
                kind = "Converted" if names is self.converted else "New"
                yield f"{kind}: {listed(group, _SHOWN)} ({reason})."
        if self.freeze:
            frozen = sum(size for name, size in self.sizes.items() if _is_below(name, self.freeze))
            yield f"Frozen: {', '.join(self.freeze)} ({frozen:,} weights)."

    def record(self) -> Row:
        """Returns the content of ``init.json``."""
        return {
            "parent": self.name,
            "lineage": [ancestor.model_dump(mode="json") for ancestor in self.parent.lineage_of_child()],
            "changed_settings": list(self.settings),
            "taken_over": sorted(self.tensors),
            "converted": dict(self.converted),
            "new": dict(self.new),
            "freeze": list(self.freeze),
            "lr_factor": self.lr_factor,
        }


def _match(parent: Bundle, network: Network, labels: Labels) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Returns the weights that are taken over, how some are converted, and why the others are new."""
    theirs, first = parent.network().state_dict(), _first_convolution(network)
    tensors: dict[str, Tensor] = {}
    converted: dict[str, str] = {}
    new: dict[str, str] = {}
    for name, own in network.state_dict().items():
        tensor = theirs.get(name)
        if tensor is None:
            new[name] = "not in the parent"
        elif _is_below(name, [network.head_name]) and tensor.shape[1:] == own.shape[1:]:
            rows = _class_rows(parent.labels, labels, len(tensor), len(own))
            if rows is None:
                new[name] = "the classes differ"
            else:
                tensors[name] = tensor[rows]
                if rows != sorted(rows):
                    converted[name] = "the classes are in another order"
        elif name == first and tensor.shape[1] != own.shape[1] and tensor[:, 0].shape == own[:, 0].shape:
            tensors[name] = tensor.sum(dim=1, keepdim=True).expand_as(own) / own.shape[1]
            converted[name] = _channels_text(tensor.shape[1], own.shape[1])
        elif tensor.shape == own.shape:
            tensors[name] = tensor
        else:
            new[name] = f"shape {_shape(own)}, in the parent {_shape(tensor)}"
    for name in [name for name in tensors if name.endswith("num_batches_tracked")]:
        if name.replace("num_batches_tracked", "running_mean") in new:
            del tensors[name]
            new[name] = "belongs to new statistics"
    return tensors, converted, new


def _class_rows(theirs: Labels, own: Labels, their_outputs: int, own_outputs: int) -> list[int] | None:
    """Returns the row of the parent's dense layer for each output; None if the classes are others."""
    if their_outputs != own_outputs or set(theirs.names) != set(own.names) or theirs.exclusive != own.exclusive:
        return None
    if own_outputs < len(own):  # a single logit is that of the last class
        return [0] if theirs.names == own.names else None
    return [theirs.index(name) for name in own.names]


def _first_convolution(network: nn.Module) -> str:
    return next(f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _channels_text(theirs: int, own: int) -> str:
    if own == 1:
        return f"summed over the {theirs} input channels"
    sums = "" if theirs == 1 else f"summed over the {theirs} input channels, then "
    return f"{sums}repeated for {own} input channels and divided by {own}"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "of one number"


def _is_below(name: str, modules: Sequence[str]) -> bool:
    """Returns whether a module or weight is one of these modules, or inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _check_freeze(freeze: Sequence[str], network: nn.Module, new: Mapping[str, str]) -> None:
    modules = [name for name, _ in network.named_modules() if name]
    for name in freeze:
        if name not in modules:
            top = [module for module in modules if module.count(".") <= (1 if module.startswith(("stages", "network")) else 0)]
            raise UsageError(
                f"--freeze (init.freeze) names {name!r}, which is not a module of the network",
                f"Its modules are {', '.join(top)}, and those inside them",
                suggest(name, top),
            )
    parameters = [name for name, _ in network.named_parameters()]
    untaken = [name for name in parameters if name in new and _is_below(name, freeze)]
    if untaken:
        raise UsageError(
            f"--freeze (init.freeze) would freeze new weights: {', '.join(untaken[:_SHOWN])} ({new[untaken[0]]})",
            "Only weights that are taken over can be frozen",
            "Freeze fewer modules, or choose a parent whose weights fit",
        )
    if all(_is_below(name, freeze) for name in parameters):
        raise UsageError(
            f"--freeze (init.freeze) freezes every weight: {', '.join(freeze)}",
            "At least one module is trained",
            "Leave out the head, or evaluate the parent with reslink evaluate",
        )
