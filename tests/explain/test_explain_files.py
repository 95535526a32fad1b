"""Panels, maps and statistics of image files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.errors import StorageError, UsageError
from reslink.explain.attention import attention_maps
from reslink.explain.display import DEFAULT_METHODS
from reslink.explain.explain_files import METHODS, ExplainOptions, explain_paths
from reslink.imaging.head_mask import SEVERAL_HEADS
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.build import build_network
from reslink.networks.reslink import variant_config

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)


@pytest.fixture
def classifier(patch_net) -> Classifier:
    """A classifier that depends on rows 40 to 56, columns 72 to 88 of its 96×96 input."""
    patch_net.head.bias.data = torch.tensor([0.0, -8.0])
    architecture = {**variant_config("reslink_small").model_dump(), "name": "reslink_small"}
    return Classifier(Bundle(architecture, PLAIN, Labels(("Healthy", "Tumor"))), patch_net, torch.device("cpu"))


def picture(path: Path, *, spot: bool = True, side: int = 192) -> Path:
    """An image of twice the network's size, with a bright spot in the region that the network depends on."""
    gray = np.random.default_rng(1).integers(0, 60, (side, side)).astype(np.uint8)
    if spot:
        gray[80:112, 144:176] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(gray).save(path)
    return path


def lesion(path: Path) -> Path:
    mask = np.zeros((192, 192), np.uint8)
    mask[80:112, 144:176] = 255
    Picture.fromarray(mask).save(path)
    return path


def test_panel_maps_and_statistics_of_one_image(classifier, drawn, tmp_path):
    source, mask = picture(tmp_path / "scan.png"), lesion(tmp_path / "mask.png")
    (explanation,) = explain_paths(classifier, [source], tmp_path / "out", ExplainOptions(masks={str(source): mask}))
    words = [text for text, _ in drawn[0][1]]
    assert {
        f"Tumor  {explanation.probability:.1%}",
        "cyan: lesion mask",
        "relative evidence for Tumor, smoothed",
        "Occlusion",
    } <= set(words)
    assert (explanation.label, explanation.target, explanation.error) == ("Tumor", "Tumor", None)
    assert sum(explanation.probabilities.values()) == pytest.approx(1)
    assert list(explanation.methods) == ["occlusion", "integrated_gradients", "grad_cam"]
    for name, numbers in explanation.methods.items():
        row, column = numbers["peak"]
        slack = 20 if name == "occlusion" else 4  # squares of 32 at a stride of 16, in an image of 96
        assert 80 - slack <= row <= 112 + slack
        assert 144 - slack <= column <= 176 + slack
        assert numbers["iou"] > 0.1
        if name != "occlusion":
            assert numbers["pointing_game"] == 1.0
            assert numbers["iou"] > 0.3
    assert drawn[0][0].width > 800
    with np.load(tmp_path / "out" / "scan.npz", allow_pickle=False) as maps:
        assert set(maps) == set(explanation.methods)
        assert maps["grad_cam"].shape == (192, 192)
        assert maps["grad_cam"].dtype == np.float16
        assert np.isfinite(maps["occlusion"]).all()
    stored = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert stored["notice"].startswith("Research use only")
    assert stored["images"] == [json.loads(json.dumps(explanation.as_dict()))]
    assert [check["method"] for check in stored["randomization_checks"]] == ["grad_cam"]


def test_a_bad_file_is_reported_and_the_others_are_explained(classifier, tmp_path):
    good, bad = picture(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    last, wrong_mask = picture(tmp_path / "c.png"), picture(tmp_path / "small.png", side=64)
    seen = []
    explanations = explain_paths(
        classifier,
        [good, bad, tmp_path / "missing.png", last],
        tmp_path / "out",
        ExplainOptions(["grad_cam"], {str(last): wrong_mask}, randomization_check=False),
        on_explanation=seen.append,
    )
    assert [f.error is None for f in explanations] == [True, False, False, False]
    assert "b.png" in explanations[1].error
    assert "missing.png" in explanations[2].error
    assert "(64, 64)" in explanations[3].error
    assert seen == explanations
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npz", "a.png", "explain.json"]


def test_equal_and_hostile_names_get_separate_files(classifier, tmp_path):
    names = ["one/scan.png", "two/scan.png", "three/SCAN.png", "four/..scan;rm -rf $HOME.png", "five/$x_{1}$<b>.png"]
    files = [picture(tmp_path / name) for name in names]
    explanations = explain_paths(classifier, files, tmp_path / "out", ExplainOptions(["grad_cam"], randomization_check=False))
    names = [f.panel for f in explanations]
    assert len({p.casefold() for p in names}) == 5
    assert names[:3] == ["scan.png", "scan_2.png", "SCAN_3.png"]
    for name in names:
        assert (tmp_path / "out" / name).is_file()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_a_volume_gives_one_panel_per_slice(classifier, drawn, tmp_path):
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).random((3, 40, 50)).astype(np.float32))
    explanations = explain_paths(classifier, [tmp_path / "volume.npy"], tmp_path / "out", ExplainOptions(["grad_cam"]))
    assert [f.slice for f in explanations] == [0, 1, 2]
    assert [f.panel for f in explanations] == ["volume_slice000.png", "volume_slice001.png", "volume_slice002.png"]
    assert [[text for text, _ in words if text.startswith("volume")] for _, words in drawn] == [
        [f"volume.npy, slice {i}  ·  threshold for Tumor: 50.0%"] for i in range(3)
    ]


def test_the_class_to_explain_can_be_chosen(classifier, drawn, tmp_path):
    source = picture(tmp_path / "scan.png")
    options = ExplainOptions(["occlusion"], target="Healthy", randomization_check=False)
    (explanation,) = explain_paths(classifier, [source], tmp_path / "o", options)
    assert (explanation.label, explanation.target) == ("Tumor", "Healthy")
    assert "no evidence for Healthy in the image" in [text for text, _ in drawn[0][1]]
    assert explanation.methods["occlusion"]["high"] < 0.5
    with pytest.raises(UsageError, match="no class 'Tumour'"):
        explain_paths(classifier, [source], tmp_path / "o", ExplainOptions(target="Tumour"))


def test_an_unknown_method_is_named(classifier, tmp_path):
    with pytest.raises(UsageError, match=r"no method 'gradcam'.*Did you mean 'grad_cam'"):
        explain_paths(classifier, [picture(tmp_path / "a.png")], tmp_path / "out", ExplainOptions(["gradcam"]))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_stops_at_once(classifier, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="could not be written"):
        explain_paths(classifier, [picture(tmp_path / "a.png")], tmp_path / "out", ExplainOptions(["grad_cam"]))


def test_the_same_image_gives_the_same_bytes(classifier, tmp_path):
    source = picture(tmp_path / "scan.png")
    for out in ("one", "two"):
        explain_paths(classifier, [source], tmp_path / out, ExplainOptions(["grad_cam"], randomization_check=False))
    assert (tmp_path / "one" / "scan.png").read_bytes() == (tmp_path / "two" / "scan.png").read_bytes()


def test_every_method_runs_on_a_saved_bundle(tmp_path):
    config = variant_config("reslink_small")
    from reslink.networks.reslink import build_network

    bundle = Bundle(
        {**config.model_dump(mode="json"), "name": "reslink_small"}, Preprocess(size=64), Labels(("Healthy", "Tumor"))
    )
    bundle.save(tmp_path / "bundle", build_network(config, seed=0).state_dict())
    loaded = Classifier.load(tmp_path / "bundle", device="cpu")
    source = picture(tmp_path / "scan.png")
    (usual,) = explain_paths(loaded, [source], tmp_path / "usual", ExplainOptions(randomization_check=False))
    assert tuple(usual.methods) == DEFAULT_METHODS
    assert set(DEFAULT_METHODS) == set(METHODS) - {"first_attention"}, "the first attention is drawn on request only"
    (explanation,) = explain_paths(loaded, [source], tmp_path / "out", ExplainOptions(METHODS))
    assert tuple(explanation.methods) == METHODS
    assert len(json.loads((tmp_path / "out" / "explain.json").read_text())["randomization_checks"]) == 3
    pixels = loaded.bundle.preprocess.pixels(read_image(tmp_path / "scan.png"))
    weights = attention_maps(loaded.network, torch.from_numpy(loaded.bundle.preprocess.normalize(pixels[None])))
    for name, alpha in weights.items():
        numbers = explanation.methods[name]
        assert (numbers["low"], numbers["high"]) == (float(alpha.min()), float(alpha.max())), "the map before resizing"
        heat = np.load(tmp_path / "out" / "scan.npz")[name]
        assert heat.shape == (192, 192)
        assert heat[tuple(numbers["peak"])] == heat.max()


def test_maps_of_a_turned_dicom_file_are_on_its_stored_pixels(classifier, tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
    import builders

    gray = np.asarray(Picture.open(picture(tmp_path / "scan.png")))
    mask = np.asarray(Picture.open(lesion(tmp_path / "mask.png")))
    found = {}
    for name, turn, cosines in (("a", lambda a: a, [1, 0, 0, 0, 1, 0]), ("b", lambda a: a.T[:, ::-1], [0, -1, 0, 1, 0, 0])):
        source = tmp_path / f"{name}.dcm"
        stored = np.ascontiguousarray(turn(gray))
        source.write_bytes(builders.written(builders.dataset(stored, ImageOrientationPatient=cosines)))
        Picture.fromarray(np.ascontiguousarray(turn(mask))).save(tmp_path / f"{name}.png")
        options = ExplainOptions(("grad_cam",), {str(source): tmp_path / f"{name}.png"}, randomization_check=False)
        (explanation,) = explain_paths(classifier, [source], tmp_path / name, options)
        with np.load(tmp_path / name / explanation.maps) as maps:
            found[name] = maps["grad_cam"], explanation.methods["grad_cam"]
        row, column = explanation.methods["grad_cam"]["peak"]
        assert found[name][0][row, column] == found[name][0].max()
    np.testing.assert_array_equal(found["b"][0], found["a"][0].T[:, ::-1])
    assert found["a"][0].std() > 0
    for measure in ("pointing_game", "energy_inside", "iou"):
        assert found["a"][1][measure] == found["b"][1][measure]


def test_an_image_that_the_model_is_not_for_gets_its_reason_and_no_picture(classifier, tmp_path):
    bundle = replace(classifier.bundle, scope=Scope(modality="CT"))
    limited = Classifier(bundle, classifier.network, torch.device("cpu"))
    np.save(tmp_path / "mr.npy", np.random.default_rng(0).normal(500, 100, (64, 64)).astype(np.float32))
    options = ExplainOptions(("grad_cam",), unit="mr", randomization_check=False)
    [explanation] = explain_paths(limited, [tmp_path / "mr.npy"], tmp_path / "out", options)
    assert (explanation.label, explanation.panel, explanation.error) == (None, None, None)
    assert (explanation.abstain, explanation.reasons) == (True, ["the file is MR, and the model is for CT of the head"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explain.json"]
    [explained] = explain_paths(classifier, [tmp_path / "mr.npy"], tmp_path / "all", options)
    assert explained.label is not None


def test_a_contact_sheet_gets_its_reason_and_no_picture(classifier, tmp_path):
    y, x = np.mgrid[:96, :96] - 47.5
    head = np.where(np.hypot(y / 1.2, x) < 34, 120, 0).astype(np.uint8)
    Picture.fromarray(np.tile(head, (2, 2))).save(tmp_path / "sheet.png")
    [explanation] = explain_paths(classifier, [tmp_path / "sheet.png"], tmp_path / "out", ExplainOptions(("grad_cam",)))
    assert (explanation.label, explanation.panel, explanation.error) == (None, None, None)
    assert (explanation.abstain, explanation.reasons) == (True, [SEVERAL_HEADS])


T1_IS_REFUSED = ["the sequence is T1, and the model is for T1C+ MR of the head"]


def refused(classifier: Classifier, path: Path, out: Path, **stated: object) -> list[str] | None:
    """Returns the reasons of the first explanation if its image is refused, None if it is explained."""
    options = ExplainOptions(("grad_cam",), randomization_check=False, overwrite=True, unit="mr", **stated)
    explanation = explain_paths(classifier, [path], out, options)[0]
    assert explanation.error is None
    return explanation.reasons if explanation.label is None else None


@pytest.mark.parametrize("case", ["slice", "series"])
def test_a_stated_sequence_reaches_the_scope(classifier, tmp_path, case):
    """That of a table wins over that of the options, and this one over that of the classifier."""
    y, x = np.mgrid[:96, :96] - 47.5
    head = np.where(np.hypot(y / 1.2, x) < 34, 400 + 3 * x, 0).astype(np.float32)
    path = tmp_path / "scan.npy"
    np.save(path, np.stack([head] * 4) if case == "series" else head)
    bundle = classifier.bundle if case == "slice" else series_bundle(tmp_path)
    bundle = replace(bundle, scope=Scope(modality="MR", sequences=("T1C+",)))
    network = classifier.network if case == "slice" else bundle.network()
    limited, of_t1 = (Classifier(bundle, network, torch.device("cpu"), sequence=name) for name in (None, "T1"))
    table = {str(path): "T1C+"}
    assert refused(limited, path, tmp_path / "out") is None
    assert refused(limited, path, tmp_path / "out", sequence="T1") == T1_IS_REFUSED
    assert refused(limited, path, tmp_path / "out", sequences={str(path): "T1"}) == T1_IS_REFUSED
    assert refused(limited, path, tmp_path / "out", sequence="T1", sequences=table) is None
    assert refused(of_t1, path, tmp_path / "out") == T1_IS_REFUSED
    assert refused(of_t1, path, tmp_path / "out", sequence="T1C+") is None


def series_bundle(folder: Path) -> Bundle:
    config = variant_config("reslink_small", stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    architecture = {"name": "reslink_small", **config.model_dump(mode="json"), "case": "series"}
    state = build_network(config, 1, case="series").state_dict()
    return Bundle(architecture, Preprocess(size=64, channels=1), Labels(("Healthy", "Tumor"))).save(folder / "bundle", state)
