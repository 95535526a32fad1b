"""Variations of the search: each changes every network of its block and none after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslink.errors import UsageError
from reslink.networks.area_attention import AreaAttention, record_attention_weights
from reslink.networks.reslink import ResLink, build_network, variant_config
from reslink.training import step

CONFIG = variant_config("reslink_context", area_size=5)
X = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def gates_of(network: ResLink) -> dict[str, torch.Tensor]:
    with record_attention_weights(network) as gates, torch.no_grad():
        assert network(X).shape == (4, 2)
    return gates


@pytest.fixture
def build_variation(variations, recipe, training_data):
    """Returns a function that builds the network of a variation."""

    def make(name: str) -> ResLink:
        with variations.apply_variation(name, recipe, training_data):
            return build_network(CONFIG, 0)

    return make


def test_nothing_is_left_behind(variations, build_variation) -> None:
    plain, before = build_network(CONFIG, 0).state_dict(), step.build_network
    for name in variations.CHANGES:
        build_variation(name)
    assert build_network(CONFIG, 0).state_dict().keys() == plain.keys()
    assert step.build_network is before


def test_a_network_for_evaluation_loads_the_weights_of_the_trained_one(variations, recipe, training_data) -> None:
    for name in variations.CHANGES:
        with variations.apply_variation(name, recipe, training_data):
            trained, evaluated = build_network(CONFIG, 0), ResLink(CONFIG)
        trained(X).sum().backward()
        assert all(p.grad is not None for p in trained.parameters()), name
        evaluated.load_state_dict(trained.state_dict())
        torch.testing.assert_close(evaluated.eval()(X), trained.eval()(X), msg=name)


@pytest.mark.parametrize(("name", "channels"), [("channel_gates", 16), ("statistics_gates", 1)])
def test_gates_of_an_area_are_the_same_for_all_its_pixels(build_variation, name: str, channels: int) -> None:
    gates = gates_of(build_variation(name).eval())["first_attention"]
    assert gates.shape == (4, channels, 32, 32)
    areas = gates[..., :30, :30].unflatten(-1, (6, 5)).unflatten(-3, (6, 5))
    assert (areas == areas[..., :1, :, :1]).all()
    assert areas[..., 0, :, 0].std() > 0.001


def test_several_areas_are_averaged(build_variation) -> None:
    network = build_variation("several_areas").eval()
    gate = network.first_attention.gate
    assert [gate.area_size, *(other.gate.area_size for other in gate.others)] == [5, 2, 10]
    with torch.no_grad():
        stem = network.stem(X)
        expected = (super(type(gate), gate).forward(stem) + gate.others[0].gate(stem) + gate.others[1].gate(stem)) / 3
    torch.testing.assert_close(gates_of(network)["first_attention"], expected)


def test_new_weights_are_initialized_and_optimized_as_those_of_the_network(build_variation) -> None:
    for name in ("several_areas", "attention_everywhere"):
        network = build_variation(name)
        hidden = {id(p) for p in network.parameter_groups(0.05)[0]["params"]}
        gates = [module.gate for module in network.modules() if isinstance(module, AreaAttention)]
        assert len(gates) > 2
        for gate in gates:
            assert id(gate.expand.weight) not in hidden
            assert id(gate.reduce.weight) in hidden
            assert 0.05 < float(gate.expand.weight.detach().std()) < 0.2
            assert not gate.expand.bias.any()


def test_attention_follows_each_stage(build_variation) -> None:
    names = [
        name for name, module in build_variation("attention_everywhere").named_modules() if isinstance(module, AreaAttention)
    ]
    assert len(names) == 4
    assert sum(name.startswith("stages.") for name in names) == 2


def test_batch_norm_is_left_in_the_gates_alone(build_variation) -> None:
    kinds = [type(module) for module in build_variation("group_norm").modules()]
    assert kinds.count(nn.BatchNorm2d) == 2, "those of the gates, which see one area"
    assert kinds.count(nn.GroupNorm) > 5


def test_images_grow_while_it_is_trained(variations, recipe, training_data) -> None:
    sides: list[int] = []
    network = build_network(CONFIG, 0)
    network.stem.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[-1]))
    variations.CHANGES["growing"](network, 6)
    with torch.no_grad():
        for _ in range(7):
            network.train()(X)
            network.eval()(X)
    assert sides[::2] == [64, 64, 96, 96, 128, 128, 128]
    assert sides[1::2] == [128] * 7


def test_pretraining_changes_the_weights_and_restores_the_classes(variations, recipe, training_data) -> None:
    with variations.apply_variation("turned_first", recipe, training_data):
        network = step.build_network(recipe.network(2), 0)
    plain = build_network(recipe.network(2), 0)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
    moved = [name for name, p in network.named_parameters() if not torch.equal(p, plain.get_parameter(name))]
    assert "stem.conv.weight" in moved
    assert "stages.1.1.conv.weight" in moved


def test_a_wrong_name_names_the_nearest(variations, recipe, training_data) -> None:
    with pytest.raises(UsageError, match="growing"), variations.apply_variation("growin", recipe, training_data):
        pass


def test_a_trial_names_its_variation(search) -> None:
    trials = {"always": [], "trials": {"a": ["trainer.epochs=2", "variation=growing"], "b": []}}
    assert [search.variation_of(trials, name) for name in "ab"] == ["growing", None]
    assert search.recipe_of(trials, "a", 0).trainer.epochs == 2
