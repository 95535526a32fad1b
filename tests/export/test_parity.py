"""The parity check compares every output, on images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.errors import CheckFailedError, InputError
from reslink.export import parity
from reslink.export.parity import Inputs, make_inputs


@pytest.mark.parametrize("fault", ["labels", "pixels", "nan", "missing", "features", "cam", "final_attention", "logits"])
def test_parity_checks_every_output(fault: str, saved: Bundle, heads: Inputs) -> None:
    ours = parity.reference_outputs(saved, heads.images)
    theirs = {name: values.copy() for name, values in ours.items()}
    if fault == "labels":
        theirs["label"][0] = 1 - theirs["label"][0]
    elif fault == "pixels":
        theirs["pixels"][0, 0, 0, 0] += 1
    elif fault == "nan":
        theirs["probabilities"][1, 0] = np.nan
    elif fault == "missing":
        del theirs["probabilities"]
    else:
        theirs[fault] = theirs[fault] * 1.2 + 1
    assert parity.check(parity.compare(ours, dict(ours)), 0.0, "It", "six").labels == 0
    messages = {"labels": "1 labels", "pixels": "1 pixels", "features": "a feature by", "logits": "a logit by"}
    messages |= dict.fromkeys(("cam", "final_attention"), "a map by") | dict.fromkeys(
        ("nan", "missing"), "a probability by (nan|inf)"
    )
    with pytest.raises(CheckFailedError, match=messages[fault]):
        parity.check(parity.compare(ours, theirs), 1e-3, "It", "six")


def test_parity_checks_the_weights_of_slices(saved_series: Bundle) -> None:
    inputs = Inputs.synthetic_series(10)
    assert inputs.series == (8, 1, 1)
    ours = parity.reference_outputs(saved_series, inputs.images, inputs.series)
    assert [len(ours[name]) for name in ("probabilities", "slice_weights", "cam")] == [3, 10, 10]
    assert parity.check(parity.compare(ours, dict(ours)), 0.0, "It", "ten").images == 10
    swapped = ours | {"slice_weights": ours["slice_weights"][::-1]}
    with pytest.raises(CheckFailedError, match=r"a slice weight by .*Probabilities and slice weights may differ by 0\.001"):
        parity.check(parity.compare(ours, swapped), 1e-3, "It", "ten")


def test_real_series_are_thinned_and_an_unreadable_one_is_replaced(tmp_path: Path) -> None:
    for name, slices in (("a", 20), ("b", 3), ("c", 2)):
        np.save(tmp_path / f"{name}.npy", np.pad(np.full((slices, 44, 44), 200, np.uint8), ((0, 0), (10, 10), (10, 10))))
    (tmp_path / "aa.npy").write_bytes(b"\x93NUMPY broken")
    found = Inputs.read_series(tmp_path, 10)
    assert (found.series, len(found.images)) == ((8, 2), 10)
    assert ["aa.npy" in reason for reason in found.failed] == [True]
    assert found.source == "2 of 4 series of a folder of the user"


def test_real_inputs_are_spread_over_the_folder(ring_heads: Path, tmp_path: Path) -> None:
    found = Inputs.read(ring_heads, 5)
    assert len(found.images) == 5
    assert "of a folder of the user" in found.source
    (tmp_path / "no.png").write_bytes(b"\x89PNG no picture")
    with pytest.raises(InputError, match="None of 1 images"):
        Inputs.read(tmp_path, 5)
    for name in ("p", "q", "z"):
        np.save(tmp_path / f"{name}.npy", np.zeros((64, 64), np.uint8))
    taken = Inputs.read(tmp_path, 3)
    assert len(taken.images) == 3, "another for the one that cannot be read"
    assert ["no.png" in reason for reason in taken.failed] == [True]


def test_the_pixels_of_volumes_are_one_slice(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((5, 64, 64), np.uint8))
    [image] = Inputs.read(tmp_path, 9).images
    assert image.pixels.shape == (64, 64)


def test_inputs_of_one_size_make_a_batch(saved: Bundle) -> None:
    found = make_inputs(saved, parity.synthetic_heads(3), ("image", "keep", "box", "hounsfield", "inverted"))
    assert {name: values.shape for name, values in found.items()} == {
        "image": (3, 256, 256),
        "keep": (3, 256, 256),
        "box": (3, 4),
        "hounsfield": (3,),
        "inverted": (3,),
    }
