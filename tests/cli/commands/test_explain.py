"""``reslink explain``: output, abstentions, usage notes and overwriting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from reslink.bundles.bundle import Bundle
from reslink.bundles.fingerprints import TrainingImages
from reslink.bundles.pretrained import NO_OOD_DETECTOR
from reslink.bundles.scope import Scope
from reslink.cli.commands.explain import localization_rows
from reslink.cli.main import app
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.explain.explain_files import Explanation
from reslink.imaging.reading import read_image


def explain(bundle: Path, image: Path, out: Path, *words: str) -> Result:
    quick = ("--method", "grad_cam", "--no-sanity")
    return CliRunner().invoke(app, ["explain", str(bundle), str(image), "--out", str(out), *quick, *words])


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A picture that is unlike all that the gate has seen."""
    Picture.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def test_abstentions_are_printed_as_by_predict(built_zoo: Path, noise: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), str(noise), "--backend", "torch"])
    done = explain(built_zoo / "ct", noise, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    said = told.stdout.rstrip().split("\t")[3]
    assert said.startswith("abstains: ")
    assert done.stdout.rstrip().split("\t")[3] == said
    [stored] = json.loads((tmp_path / "out" / "explain.json").read_text())["images"]
    assert (stored["abstain"], f"abstains: {'; '.join(stored['reasons'])}") == (True, said)


def test_usage_notes_follow_the_explanations(built_zoo: Path, finished_run: Path, ring_heads: Path, tmp_path: Path) -> None:
    done = explain(built_zoo / "ct", ring_heads / "61.png", tmp_path / "out")
    assert "Its heads are drawn.\nResearch use only." in done.stderr
    ungated = explain(finished_run, ring_heads / "61.png", tmp_path / "other")
    assert NO_OOD_DETECTOR in ungated.stderr
    assert "abstains" not in ungated.stdout
    assert NO_OOD_DETECTOR not in explain(finished_run, ring_heads / "61.png", tmp_path / "json", "--json").output


def test_the_randomization_check_is_printed_and_a_failed_one_is_a_warning(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "explain",
        str(built_zoo / "ct"),
        str(ring_heads / "61.png"),
        "--method",
        "grad_cam",
        "--overwrite",
        "--out",
        str(tmp_path / "out"),
    ]
    for limit, said in (
        (1.0, "Randomization check of grad_cam passed: "),
        (-1.0, "Warning: Randomization check of grad_cam failed: "),
    ):
        monkeypatch.setattr("reslink.explain.randomization_check.LIMIT", limit)
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith(said)], done.stderr
        told = CliRunner().invoke(app, [*words, "--json"])
        assert (said in told.stderr) == (limit < 0), "only a failed one, beside the JSON"
        assert [json.loads(line)["label"] for line in told.stdout.splitlines()]


def test_no_pictures_are_announced_if_no_image_was_explained(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    none = explain(built_zoo / "ct", tmp_path / "none.png", tmp_path / "out")
    assert none.exit_code == 1
    assert "Pictures, maps" not in none.stderr
    assert f"No image was explained; {tmp_path / 'out' / 'explain.json'} lists the errors\n" in none.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explain.json"]
    some = explain(built_zoo / "ct", ring_heads / "61.png", tmp_path / "seen")
    assert f"Pictures, maps and explain.json: {tmp_path / 'seen'}\n" in some.stderr


def test_nothing_is_overwritten_without_overwrite(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    scan = tmp_path / "61.png"
    scan.write_bytes((ring_heads / "61.png").read_bytes())
    done = explain(built_zoo / "ct", scan, tmp_path)
    assert done.exit_code == 0, done.stderr
    assert scan.read_bytes() == (ring_heads / "61.png").read_bytes(), "the image that is explained stays"
    assert (tmp_path / "61_2.png").is_file()
    again = explain(built_zoo / "ct", scan, tmp_path)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "already holds explanations.\n  Existing results are not overwritten without --overwrite.\n" in again.stderr
    replaced = explain(built_zoo / "ct", ring_heads / "62.png", tmp_path, "--overwrite")
    assert replaced.exit_code == 0, replaced.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["61.png", "62.npz", "62.png", "explain.json"]
    assert scan.read_bytes() == (ring_heads / "61.png").read_bytes()


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{"panel": 3}]}', '{"images": [{}]}'])
def test_a_foreign_explain_json_is_refused(built_zoo: Path, ring_heads: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "explain.json").write_text(text)
    for words in ((), ("--overwrite",)):
        done = explain(built_zoo / "ct", ring_heads / "61.png", tmp_path, *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "explain.json exists, and reslink did not write it.\n" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["explain.json"]
    assert (tmp_path / "explain.json").read_text() == text


def test_only_pictures_of_reslink_are_overwritten(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = explain(built_zoo / "ct", ring_heads / "61.png", out)
    assert first.exit_code == 0
    named = json.loads((out / "explain.json").read_text())
    for name in ("mine.png", "../above.png"):  # an image of the user that the list names, and one outside the folder
        (out / name).write_bytes((ring_heads / "62.png").read_bytes())
        named["images"].append(named["images"][0] | {"panel": name, "maps": "mine.npz"})
    (out / "mine.npz").write_text("mine")
    (out / "explain.json").write_text(json.dumps(named))
    picture = (out / "61.png").read_bytes()
    (out / "scan.png").write_bytes(picture)  # drawn by reslink, but not in the list
    failed = explain(built_zoo / "ct", tmp_path / "gone.png", out)
    assert failed.exit_code == 2, "pictures stand there"
    explained = explain(built_zoo / "ct", out / "61.png", out, "--overwrite")  # one of its own pictures as an image
    assert explained.exit_code == 0, explained.stderr
    assert "several heads" in explained.output, "a panel shows the head more than once, and is refused"
    assert (out / "61.png").read_bytes() == picture, "an image that is given stays"
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".png") == ["61.png", "mine.png", "scan.png"]
    assert (out / "mine.npz").read_text() == "mine"
    assert (tmp_path / "above.png").is_file()


def test_a_run_without_explanations_can_be_repeated(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    assert explain(built_zoo / "ct", tmp_path / "gone.png", tmp_path / "out").exit_code == 1
    assert explain(built_zoo / "ct", ring_heads / "61.png", tmp_path / "out").exit_code == 0


def test_an_interrupted_run_can_be_replaced(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["explain", str(built_zoo / "ct"), str(ring_heads / "61.png"), "--method", "grad_cam", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("reslink.explain.explain_files.randomization_checks", stopped)
        assert CliRunner().invoke(app, words).exit_code == 130
    assert CliRunner().invoke(app, words).exit_code == 2
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["61.npz", "61.png", "explain.json"]


def test_a_limit_counts_slices_and_every_kind_of_path(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8))
    done = explain(built_zoo / "ct", tmp_path / "volume.npy", tmp_path / "out", "--limit", "2")
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == ["volume_slice000.png", "volume_slice001.png"]
    for image in ("61.png", "62.png"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / image).write_bytes((ring_heads / image).read_bytes())
    mixed = explain(built_zoo / "ct", tmp_path / "gone.png", tmp_path / "mixed", str(tmp_path / "two"), "--limit", "2")
    assert mixed.exit_code == 1
    named = [Path(image["path"]).name for image in json.loads((tmp_path / "mixed" / "explain.json").read_text())["images"]]
    assert named == ["gone.png", "61.png"], "one that cannot be read counts too"
    assert "Explaining: 2 steps in" in mixed.stderr


@pytest.fixture
def with_masks(ring_heads: Path, tmp_path: Path) -> Path:
    """A table of two images with lesion masks."""
    rows = ["path,label,mask"]
    for name in ("61.png", "63.png"):
        (tmp_path / name).write_bytes((ring_heads / name).read_bytes())
        mask = np.zeros((96, 96), np.uint8)
        mask[30:60, 30:60] = 255
        Picture.fromarray(mask).save(tmp_path / f"mask_{name}")
        rows.append(f"{name},Tumor,mask_{name}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


@pytest.mark.parametrize(
    ("trained_on", "lesions", "said"),
    [
        (["61.png"], "1", "1 of 2 images, or on near duplicates; they are left out of the table. Their maps say little"),
        (
            ["61.png", "63.png"],
            None,
            "2 of 2 images, or on near duplicates; the measures of their maps are in explain.json only.",
        ),
        ([], "2", None),
        (None, "2", "it is not known which images the model was trained on; the table can be too good"),
    ],
)
def test_training_images_are_counted_and_left_out_of_the_pointing_game(
    finished_run: Path, with_masks: Path, tmp_path: Path, trained_on: list[str] | None, lesions: str | None, said: str | None
) -> None:
    bundle = Bundle.load(finished_run)
    thumbnails = [make_thumbnail(read_image(with_masks.parent / name)) for name in trained_on or ()]
    known = None
    if trained_on is not None:
        prints = make_fingerprints(np.stack(thumbnails)) if thumbnails else np.zeros((0, 128), np.uint8)
        known = TrainingImages(prints, np.zeros((0, 32), np.uint8))
    replace(bundle, training_images=known).save(tmp_path / "bundle", bundle.network().state_dict())
    done = explain(tmp_path / "bundle", with_masks, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("grad_cam")]
    assert [row[1] for row in rows] == ([] if lesions is None else [lesions])
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning: ") and "trained" in line]
    assert len(warnings) == (said is not None)
    assert all(said in line for line in warnings)
    index = json.loads((tmp_path / "out" / "explain.json").read_text())
    marks = [None if trained_on is None else name in trained_on for name in ("61.png", "63.png")]
    assert [image["training_image"] for image in index["images"]] == marks
    assert index["n_training_images"] == (None if trained_on is None else len(trained_on))


def test_the_sequence_of_the_option_is_compared_with_those_of_the_model(
    finished_run: Path, ring_heads: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(finished_run)
    for_flair = replace(bundle, scope=Scope(modality="MR", sequences=("FLAIR",)))
    for_flair.save(tmp_path / "bundle", bundle.network().state_dict())
    done = explain(tmp_path / "bundle", ring_heads / "61.png", tmp_path / "out", "--sequence", "t1ce")
    assert done.exit_code == 0, done.stderr
    assert "the sequence is T1C+, and the model is for FLAIR MR of the head" in done.stdout


def test_localization_is_averaged_over_the_cases_with_a_lesion_mask() -> None:
    hit = {"pointing_game": 1.0, "energy_inside": 0.5, "iou": 0.2}
    miss = {"pointing_game": 0.0, "energy_inside": 0.1, "iou": None}
    found = [Explanation("a", methods={"final_attention": hit}), Explanation("b", methods={"final_attention": miss})]
    done = [*found, Explanation("c")]
    assert localization_rows(done) == [("final_attention", "2", "0.500", "0.300", "0.200")]
    assert localization_rows([Explanation("a", methods={"final_attention": {"low": 0.0}})]) == []
