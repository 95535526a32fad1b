"""Panels, maps and numbers for image files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.errors import StorageError, UsageError
from reslink.explain.attention import attention_maps
from reslink.explain.run import METHODS, explain_paths
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import variant_config

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)


@pytest.fixture
def classifier(patch_net) -> Classifier:
    """Looks at rows 40 to 56, columns 72 to 88 of its 96×96 input."""
    patch_net.head.bias.data = torch.tensor([0.0, -8.0])
    architecture = {**variant_config("reslink_small").model_dump(), "name": "reslink_small"}
    return Classifier(Bundle(architecture, PLAIN, Labels(("Healthy", "Tumor"))), patch_net, torch.device("cpu"))


def picture(path: Path, *, spot: bool = True, side: int = 192) -> Path:
    """An image of twice the network's size, with a bright spot where the network looks."""
    grey = np.random.default_rng(1).integers(0, 60, (side, side)).astype(np.uint8)
    if spot:
        grey[80:112, 144:176] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(grey).save(path)
    return path


def lesion(path: Path) -> Path:
    mask = np.zeros((192, 192), np.uint8)
    mask[80:112, 144:176] = 255
    Picture.fromarray(mask).save(path)
    return path


def test_panel_maps_and_numbers_of_one_image(classifier, drawn, tmp_path):
    source, mask = picture(tmp_path / "scan.png"), lesion(tmp_path / "mask.png")
    (found,) = explain_paths(classifier, [source], tmp_path / "out", masks={str(source): mask})
    words = [text for text, _ in drawn[0][1]]
    assert {f"Tumor  {found.probability:.1%}", "cyan: lesion mask", "evidence for Tumor, smoothed", "Occlusion"} <= set(words)
    assert (found.label, found.target, found.error) == ("Tumor", "Tumor", None)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert list(found.methods) == ["grad_cam", "integrated_gradients", "occlusion"]
    for name, numbers in found.methods.items():
        row, column = numbers["peak"]
        slack = 20 if name == "occlusion" else 4  # squares of 32 at a stride of 16, in an image of 96
        assert 80 - slack <= row <= 112 + slack
        assert 144 - slack <= column <= 176 + slack
        assert numbers["iou"] > 0.1
        if name != "occlusion":
            assert numbers["pointing_game"] == 1.0
            assert numbers["iou"] > 0.3
    with Picture.open(tmp_path / "out" / "scan.png") as drawn:
        assert drawn.width > 800
    with np.load(tmp_path / "out" / "scan.npz", allow_pickle=False) as maps:
        assert set(maps) == set(found.methods)
        assert maps["grad_cam"].shape == (192, 192)
        assert maps["grad_cam"].dtype == np.float16
        assert np.isfinite(maps["occlusion"]).all()
    stored = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert stored["notice"].startswith("Research use only")
    assert stored["images"] == [json.loads(json.dumps(found.as_dict()))]
    assert [check["method"] for check in stored["randomisation_checks"]] == ["grad_cam"]


def test_a_bad_file_is_named_and_the_others_go_on(classifier, tmp_path):
    good, bad = picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    last, wrong_mask = picture(tmp_path / "c.png"), picture(tmp_path / "small.png", side=64)
    seen = []
    found = explain_paths(
        classifier,
        [good, bad, tmp_path / "missing.png", last],
        tmp_path / "out",
        methods=["grad_cam"],
        masks={str(last): wrong_mask},
        sanity=False,
        progress=seen.append,
    )
    assert [f.error is None for f in found] == [True, False, False, False]
    assert "b.png" in found[1].error
    assert "missing.png" in found[2].error
    assert "(64, 64)" in found[3].error
    assert seen == found
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npz", "a.png", "explain.json"]


def test_equal_and_hostile_names_get_files_of_their_own(classifier, tmp_path):
    names = ["one/scan.png", "two/scan.png", "three/SCAN.png", "four/..scan;rm -rf $HOME.png", "five/$x_{1}$<b>.png"]
    files = [picture(tmp_path / name) for name in names]
    found = explain_paths(classifier, files, tmp_path / "out", methods=["grad_cam"], sanity=False)
    names = [f.panel for f in found]
    assert len({p.casefold() for p in names}) == 5
    assert names[:3] == ["scan.png", "scan_2.png", "SCAN_3.png"]
    for name in names:
        assert (tmp_path / "out" / name).is_file()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_a_volume_gives_a_panel_a_slice(classifier, drawn, tmp_path):
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).random((3, 40, 50)).astype(np.float32))
    found = explain_paths(classifier, [tmp_path / "volume.npy"], tmp_path / "out", methods=["grad_cam"])
    assert [f.slice for f in found] == [0, 1, 2]
    assert [f.panel for f in found] == ["volume_slice000.png", "volume_slice001.png", "volume_slice002.png"]
    assert [[text for text, _ in words if text.startswith("volume")] for _, words in drawn] == [
        [f"volume.npy, slice {i}  ·  Tumor from 50.0% on"] for i in range(3)
    ]


def test_the_class_to_explain_can_be_chosen(classifier, drawn, tmp_path):
    source = picture(tmp_path / "scan.png")
    (found,) = explain_paths(classifier, [source], tmp_path / "o", methods=["occlusion"], target="Healthy", sanity=False)
    assert (found.label, found.target) == ("Tumor", "Healthy")
    assert "no evidence for Healthy in the picture" in [text for text, _ in drawn[0][1]]
    assert found.methods["occlusion"]["high"] < 0.5
    with pytest.raises(UsageError, match="no class 'Tumour'"):
        explain_paths(classifier, [source], tmp_path / "o", target="Tumour")


def test_an_unknown_method_is_named(classifier, tmp_path):
    with pytest.raises(UsageError, match=r"no method 'gradcam'.*Did you mean 'grad_cam'"):
        explain_paths(classifier, [picture(tmp_path / "a.png")], tmp_path / "out", methods=["gradcam"])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_stops_at_once(classifier, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="could not be written"):
        explain_paths(classifier, [picture(tmp_path / "a.png")], tmp_path / "out", methods=["grad_cam"])


def test_the_same_image_gives_the_same_bytes(classifier, tmp_path):
    source = picture(tmp_path / "scan.png")
    for out in ("one", "two"):
        explain_paths(classifier, [source], tmp_path / out, methods=["grad_cam"], sanity=False)
    assert (tmp_path / "one" / "scan.png").read_bytes() == (tmp_path / "two" / "scan.png").read_bytes()


def test_every_method_runs_on_a_saved_bundle(tmp_path):
    config = variant_config("reslink_small")
    from reslink.networks.reslink import build

    bundle = Bundle(
        {**config.model_dump(mode="json"), "name": "reslink_small"}, Preprocess(size=64), Labels(("Healthy", "Tumor"))
    )
    bundle.save(tmp_path / "bundle", build(config, seed=0).state_dict())
    loaded = Classifier.load(tmp_path / "bundle", device="cpu")
    (found,) = explain_paths(loaded, [picture(tmp_path / "scan.png")], tmp_path / "out")
    assert tuple(found.methods) == METHODS
    assert len(json.loads((tmp_path / "out" / "explain.json").read_text())["randomisation_checks"]) == 3
    pixels = loaded.bundle.preprocess.pixels(read_image(tmp_path / "scan.png"))
    gates = attention_maps(loaded.network, torch.from_numpy(loaded.bundle.preprocess.normalise(pixels[None])))
    for name, gate in gates.items():
        numbers = found.methods[name]
        assert (numbers["low"], numbers["high"]) == (float(gate.min()), float(gate.max())), "the gates, not an enlarged map"
        heat = np.load(tmp_path / "out" / "scan.npz")[name]
        assert heat.shape == (192, 192)
        assert heat[tuple(numbers["peak"])] == heat.max()
