"""Weights are stored exactly, and every other file is refused."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from reslink.bundles import weights
from reslink.bundles.bundle import Bundle
from reslink.errors import BundleError
from reslink.files import sha256


def test_equal_weights_give_equal_bytes_in_any_order_and_form(bundle, network, tmp_path):
    state = network.state_dict()
    arrays = {name: np.array(value.numpy(), order="F") for name, value in reversed(state.items())}
    first = bundle.save(tmp_path / "a", state)
    second = bundle.save(tmp_path / "elsewhere" / "b", arrays)
    content = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert content == (tmp_path / "elsewhere" / "b" / "model.safetensors").read_bytes()
    assert first.weights_sha256 == second.weights_sha256 == sha256(content)
    with safe_open(tmp_path / "a" / "model.safetensors", "np") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_half_precision_is_kept(bundle, saved, network, tmp_path):
    state = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    half = bundle.save(tmp_path / "half", state)
    sizes = [(one.folder / "model.safetensors").stat().st_size for one in (half, saved)]
    assert sizes[0] < 0.75 * sizes[1]
    for name, value in half.network().state_dict().items():
        assert value.dtype == network.state_dict()[name].dtype
        assert torch.equal(value, state[name].to(value.dtype))


def test_bfloat16_and_float64_are_stored_as_float32(bundle, network, tmp_path):
    rounded = {name: value.bfloat16() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    stored = bundle.save(tmp_path / "rounded", rounded)
    wide = bundle.save(tmp_path / "wide", {name: value.double() for name, value in rounded.items()})
    with safe_open(stored.folder / "model.safetensors", "pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert kinds <= {"torch.float32", "torch.int64"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(stored.network().state_dict().values(), wide.network().state_dict().values(), strict=True)
    )


def test_every_flipped_bit_of_the_weights_is_detected(saved, rng):
    path = saved.folder / "model.safetensors"
    content = path.read_bytes()
    for place in rng.integers(0, len(content) * 8, 200):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(BundleError, match=r"SHA-256|weight file"):
            Bundle.load(saved.folder)


def test_weights_that_change_after_loading_are_detected(saved):
    loaded = Bundle.load(saved.folder)
    path = saved.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="SHA-256"):
        loaded.network()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 64, b"\x80\x02}q\x00.", (2 << 20).to_bytes(8, "little") + b"{}" * (1 << 20)],
    ids=["empty", "zeros", "ones", "pickle", "long header"],
)
def test_other_file_formats_are_refused_before_they_are_read(replace_weights, saved, content):
    replace_weights(saved.folder, content) if len(content) >= 8 else (saved.folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="not a weight file"):
        Bundle.load(saved.folder)


def test_a_wrong_header_is_refused(replace_weights, saved):
    header = b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'
    replace_weights(saved.folder, len(header).to_bytes(8, "little") + header)
    with pytest.raises(BundleError, match="cannot be loaded"):
        Bundle.load(saved.folder).network()


def test_weights_of_another_architecture_are_named(rewrite, saved):
    rewrite(saved.folder, lambda value: value["architecture"].update(stem_dim=16, dims=[16, 8]))
    with pytest.raises(BundleError, match=r"of another shape: .*stages\.0\.0\.norm\.bias \(8,\) for \(16,\)"):
        Bundle.load(saved.folder).network()


def test_an_architecture_that_cannot_be_built_is_named(rewrite, saved):
    rewrite(saved.folder, lambda value: value["architecture"].update(area_size=0))
    with pytest.raises(BundleError, match="area_size: Input should be greater"):
        Bundle.load(saved.folder).network()


def test_building_the_network_leaves_the_random_state_alone(saved):
    before = torch.random.get_rng_state()
    saved.network()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_saving_names_the_weights_that_do_not_fit(bundle, network, tmp_path):
    state = dict(network.state_dict())
    state["head.1.weights"] = state.pop("head.1.weight")
    with pytest.raises(BundleError, match=r"missing: head\.1\.weight; unknown: head\.1\.weights"):
        bundle.save(tmp_path / "b", state)
    assert not any(tmp_path.iterdir())


def test_saving_refuses_weights_that_are_not_finite(bundle, network, tmp_path):
    state = network.state_dict()
    state["head.1.bias"][0] = float("nan")
    with pytest.raises(BundleError, match=r"not finite in head\.1\.bias\."):
        bundle.save(tmp_path / "b", state)


def test_loading_refuses_weights_that_are_not_finite(replace_weights, saved, network):
    state = network.state_dict()
    state["head.1.bias"][0] = float("inf")
    replace_weights(saved.folder, weights.to_bytes(weights.to_arrays(state)))
    with pytest.raises(BundleError, match=r"not finite in head\.1\.bias\."):
        Bundle.load(saved.folder).network()


def test_parameters_are_counted_without_the_statistics(saved, network):
    counted = weights.count_parameters(saved.folder / "model.safetensors")
    assert counted == sum(parameter.numel() for parameter in network.parameters())
