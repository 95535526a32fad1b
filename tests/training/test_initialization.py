"""The weights that a fine-tuned network takes over: which, converted how, frozen or not, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import TrainingImages
from reslink.errors import BundleError, UsageError
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.build import build_network as build_any_network
from reslink.networks.reslink import ResLink, ResLinkConfig, build_network
from reslink.training.initialization import Initialization
from reslink.training.recipe.recipe import Recipe, load_recipe, network_settings
from reslink.training.seeding import torch_seed

CLASSES = ("glioma", "healthy", "meningioma")
CONFIG = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), area_size=4, in_channels=3, num_classes=3)

SaveParent = Callable[..., Bundle]


@pytest.fixture
def save_parent(tmp_path: Path) -> SaveParent:
    """Saves a bundle with random weights and statistics."""

    def save(
        labels: tuple[str, ...] = CLASSES,
        window: str = "brain",
        folder: str = "parent",
        decision: Decision | None = None,
        **fields: Any,
    ) -> Bundle:
        config = CONFIG.model_copy(update={"num_classes": len(labels), **fields})
        network = build_network(config, seed=9)
        with torch.no_grad():
            for number, (name, value) in enumerate(network.state_dict().items()):
                if value.is_floating_point() and ("norm" in name or "head" in name):
                    value.copy_(torch.linspace(0.5, 1.5 + number, value.numel()).reshape(value.shape))
        return Bundle(
            {"name": "reslink_paper", **config.model_dump(mode="json")},
            Preprocess(size=64, channels=config.in_channels, window=window),
            Labels(labels),
            decision or Decision.default(len(labels)),
            provenance={"license": "CC BY 4.0", "data": {"digest": "cd" * 32}},
        ).save(tmp_path / folder, network.state_dict())

    return save


def make(parent: Bundle, *sets: str, labels: tuple[str, ...] = CLASSES) -> tuple[Initialization, ResLink, Recipe]:
    """Returns the initialization of a child, and its network after it."""
    recipe = load_recipe(None, [("init.parent", str(parent.folder)), "seed=4", *sets])
    initialization = Initialization.from_recipe(recipe, Labels(labels))
    assert initialization is not None
    network = build_network(recipe.network(len(labels)), torch_seed(4, "weights"))
    initialization.apply(network)
    return initialization, network, recipe


def test_a_recipe_without_a_parent_has_none() -> None:
    assert Initialization.from_recipe(load_recipe(), Labels(CLASSES)) is None


def test_shape_and_weights_of_a_parent_with_the_same_classes_are_taken_over(save_parent: SaveParent) -> None:
    parent = save_parent()
    initialization, network, recipe = make(parent)
    assert recipe.preprocess == parent.preprocess
    assert recipe.network(3) == CONFIG
    assert not initialization.new
    assert not initialization.converted
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), parent.network()(x), rtol=0, atol=0)


def test_the_head_is_new_for_other_classes(save_parent: SaveParent) -> None:
    parent = save_parent()
    initialization, network, _ = make(parent, labels=("a", "b", "c"))
    assert initialization.new == dict.fromkeys(("head.1.weight", "head.1.bias"), "the classes differ")
    fresh, theirs = build_network(CONFIG, torch_seed(4, "weights")).state_dict(), parent.network().state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, (fresh if name.startswith("head.") else theirs)[name], rtol=0, atol=0)
    assert set(initialization.lr_factors()) == {name for name, _ in network.named_parameters() if "head." not in name}
    messages = " ".join(initialization.messages())
    head = 16 * 3 + 3
    total = sum(parameter.numel() for parameter in network.parameters())
    assert f"Taken over: {total - head:,} of {total:,} weights, with 0.3 of the learning rate." in messages
    assert "New: head.1.weight, head.1.bias (the classes differ)." in messages
    assert "The training images of parent are not all known" in messages
    known = TrainingImages(np.zeros((0, 128), np.uint8), np.zeros((0, 32), np.uint8))
    assert "not all known" not in " ".join(replace(initialization, parent=replace(parent, training_images=known)).messages())


def test_classes_in_another_order_keep_their_own_rows(save_parent: SaveParent) -> None:
    parent = save_parent()
    swapped = ("meningioma", "glioma", "healthy")
    initialization, network, _ = make(parent, 'data.class_order=["meningioma", "glioma", "healthy"]', labels=swapped)
    assert initialization.converted["head.1.weight"] == "the classes are in another order"
    x = torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        own, theirs = network.eval()(x)[0], parent.network()(x)[0]
    for name in CLASSES:
        torch.testing.assert_close(own[swapped.index(name)], theirs[CLASSES.index(name)])


def test_a_single_logit_is_not_taken_over_for_the_opposite_class(save_parent: SaveParent) -> None:
    parent = save_parent(("healthy", "tumor"), num_classes=1, decision=Decision())
    same, _, _ = make(parent, "model.num_classes=1", labels=("healthy", "tumor"))
    opposite, _, _ = make(parent, "model.num_classes=1", labels=("tumor", "healthy"))
    two, _, _ = make(parent, labels=("healthy", "tumor"))
    assert ("head.1.weight" in same.new, "head.1.weight" in opposite.new, "head.1.weight" in two.new) == (False, True, True)


@pytest.mark.parametrize(("theirs", "own"), [(3, 1), (1, 3)])
def test_other_channels_give_the_same_answers_for_equal_planes(save_parent: SaveParent, theirs: int, own: int) -> None:
    parent = save_parent(in_channels=theirs)
    initialization, network, _ = make(parent, f"preprocess.channels={own}")
    assert list(initialization.converted) == ["stem.conv.weight"]
    plane = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 1, 64, 64)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(
            network.eval()(plane.expand(2, own, 64, 64)), parent.network()(plane.expand(2, theirs, 64, 64))
        )
    assert f"preprocess.channels was {theirs}, is {own}" in " ".join(initialization.messages())


def test_another_input_size_takes_over_every_weight(save_parent: SaveParent) -> None:
    initialization, network, _ = make(save_parent(), "preprocess.size=96")
    assert not initialization.new
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 3)


def test_weights_of_another_shape_are_new_with_their_statistics(save_parent: SaveParent) -> None:
    initialization, _, _ = make(save_parent(), "model.dims=[8, 24]")
    assert initialization.new["stages.1.0.norm.running_mean"] == "shape 24, in the parent 16"
    assert initialization.new["stages.1.0.norm.num_batches_tracked"] == "belongs to new statistics"
    assert "stages.0.0.norm.num_batches_tracked" in initialization.tensors
    assert "stages.0.0.conv.weight" in initialization.tensors
    record = initialization.record()
    assert sorted([*record["taken_over"], *record["new"]]) == sorted(build_network(CONFIG, 0).state_dict())
    assert "model.dims was [8, 16], is [8, 24]" in record["changed_settings"]


def test_a_layer_that_the_parent_lacks_is_new(save_parent: SaveParent) -> None:
    initialization, _, _ = make(save_parent(attention="first"), "model.attention=both")
    assert initialization.new["final_attention.gate.reduce.weight"] == "not in the parent"


def test_frozen_modules_have_no_gradient_and_keep_their_statistics(save_parent: SaveParent) -> None:
    _, network, _ = make(save_parent(), "init.freeze=[stem, stages.0]")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(("stem.", "stages.0.")), name
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(("stem.", "stages.0.")) for name in changed)
    assert not network.stem.norm.training
    assert all(module.training for module in network.stages[1].modules() if isinstance(module, nn.BatchNorm2d))


EVERYTHING = "init.freeze=[stem, first_attention, stages, context, final_attention, head]"
REFUSED: dict[str, tuple[list[str], tuple[str, ...], list[str]]] = {
    "unknown module": (
        ["init.freeze=[steem]"],
        CLASSES,
        ["names 'steem', which is not a module", "stem, first_attention, stages, stages.0", "Did you mean 'stem'?"],
    ),
    "part of a name": (["init.freeze=[stem.con]"], CLASSES, ["names 'stem.con'"]),
    "a new head": (
        ["init.freeze=[head]"],
        ("a", "b"),
        ["freeze new weights: head.1.weight, head.1.bias (the classes differ)", "Freeze fewer"],
    ),
    "everything": ([EVERYTHING], CLASSES, ["freezes every weight", "At least one module is trained", "evaluate the parent"]),
    "nothing fits": (
        ["model.stem_dim=16", "model.dims=[16, 32]", "model.area_size=2", "model.attention=none"],
        ("a", "b"),
        ["No weight of", "fits the network", "Leave out"],
    ),
}


@pytest.mark.parametrize(("sets", "labels", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_start_is_refused(
    save_parent: SaveParent, sets: list[str], labels: tuple[str, ...], words: list[str]
) -> None:
    parent = save_parent()
    with pytest.raises(UsageError) as raised:
        make(parent, *sets, labels=labels)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_parent_that_changed_since_the_recipe_is_refused(save_parent: SaveParent) -> None:
    parent = save_parent()
    assert parent.folder is not None
    recipe = load_recipe(None, [("init.parent", str(parent.folder))])
    content = (parent.folder / "model.safetensors").read_bytes()
    (parent.folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="SHA-256"):
        Initialization.from_recipe(recipe, Labels(CLASSES))
    shutil.rmtree(parent.folder)
    with pytest.raises(BundleError, match="does not exist"):
        Initialization.from_recipe(recipe, Labels(CLASSES))


class Own(nn.Module):
    """A network of the user, whose dense layer is not called head."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(in_channels, 8, 3, 4), nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.body(x).relu().mean((2, 3)))
        return logits


def test_the_dense_layer_of_another_network_is_new_for_other_classes(tmp_path: Path) -> None:
    recipe = load_recipe(None, [*network_settings(Own).items(), ("preprocess.size", 64)]).with_builder(Own)
    network = build_any_network(recipe.network(2), 9, Own)
    parent = Bundle(recipe.architecture(2), recipe.preprocess, Labels(("healthy", "tumor")), builder=Own)
    folder = parent.save(tmp_path / "parent", network.state_dict()).folder
    settings = [*network_settings(Own).items(), ("init.parent", str(folder))]
    child = load_recipe(None, settings).with_builder(Own)
    for labels, new in (
        (("healthy", "tumor"), []),
        (("healthy", "stroke"), ["network.out.bias", "network.out.weight"]),
    ):
        initialization = Initialization.from_recipe(child, Labels(labels))
        assert initialization is not None
        assert sorted(initialization.new) == new
        assert initialization.settings == ()
    with pytest.raises(UsageError, match=r"is built by .*:Own, which is not part of reslink.*Pass .*:Own with --network"):
        load_recipe(None, [("init.parent", str(folder))])
