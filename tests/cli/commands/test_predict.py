"""``reslink predict``: output, pictures with attention maps, and the CSV table."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

import reslink
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import Conformal
from reslink.bundles.pretrained import pretrained_info
from reslink.bundles.scope import Scope
from reslink.cli.console import RESEARCH_USE
from reslink.cli.main import app
from reslink.cores import worker_pool
from reslink.inference import blocks

PROGRAM = """
import sys
from reslink.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    sys.exit(70 if "torch" in sys.modules else end.code)
"""


def test_every_prediction_has_its_picture_without_torch(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    volume = np.stack([np.asarray(Picture.open(ring_heads / f"{i}.png").convert("L")) for i in (60, 61)])
    np.save(tmp_path / "volume.npy", volume)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    words = [str(built_zoo / "ct"), str(ring_heads / "61.png"), "broken.png", "volume.npy", "--pictures", "seen", "--json"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, "predict", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["error"] is None for line in lines] == [True, False, True, True, True]
    assert ["series" in line for line in lines] == [False] * 4 + [True]
    names = ["0001_61.png", "0002_volume_slice_0.png", "0003_volume_slice_1.png"]
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == names
    assert "3 pictures in seen" in done.stderr
    first, again = ((tmp_path / "seen" / name) for name in (names[0], names[2]))
    with Picture.open(first) as drawn:
        assert np.asarray(drawn.convert("HSV"))[..., 1].max() > 100, "a map is drawn in colours"
    assert first.read_bytes() != again.read_bytes()


def test_a_backend_without_maps_is_refused_before_the_first_image(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    words = [str(built_zoo / "ct"), str(ring_heads / "61.png"), "--backend", "torch", "--pictures", str(tmp_path / "seen")]
    done = CliRunner().invoke(app, ["predict", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "The backend torch computes no maps" in done.stderr
    assert "reslink explain" in done.stderr
    assert not (tmp_path / "seen").exists()


def test_the_accuracy_on_other_hospitals_goes_with_each_answer(known_outside: Path, ring_heads: Path) -> None:
    images = [str(ring_heads / "61.png"), str(ring_heads / "62.png")]
    done = CliRunner().invoke(app, ["predict", str(known_outside), *images])
    assert done.exit_code == 0, done.stderr
    assert [line.split("\t")[1].endswith(", other hospitals: accuracy 0.52)") for line in done.stdout.splitlines()] == [
        True
    ] * 2
    said = "its accuracy as shipped was 0.52 (n 654, without 9 refused); of all 663, 62 % got an answer"
    assert done.stderr.count(said) == 1
    told = CliRunner().invoke(app, ["predict", str(known_outside), *images, "--json"])
    assert [said in json.loads(line)["scope"] for line in told.stdout.splitlines()] == [True] * 2


def test_a_folder_as_csv_file_is_refused_before_the_first_image(built_zoo: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), str(tmp_path / "none.png"), "--csv", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{tmp_path.name} is a folder" in done.stderr.replace("\n", "")
    assert "predictions.csv" in done.stderr
    assert "does not exist" not in done.stderr, "the image was not looked at"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["seen", "seen/more"])
def test_a_file_as_picture_folder_is_refused_before_the_first_image(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, given: str
) -> None:
    (tmp_path / "seen").write_text("mine")
    words = [str(built_zoo / "ct"), str(ring_heads / "61.png"), "--backend", "onnxruntime", "--pictures", str(tmp_path / given)]
    done = CliRunner().invoke(app, ["predict", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: {tmp_path / 'seen'} is a file.\n  --pictures must name a folder.\n" in done.stderr
    assert f"--pictures {tmp_path / 'seen-folder'}.\n" in done.stderr
    assert (tmp_path / "seen").read_text() == "mine"


def test_an_unreadable_image_in_a_folder_is_named(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    (tmp_path / "61.png").write_bytes((ring_heads / "61.png").read_bytes())
    (tmp_path / "cine.gif").write_bytes(b"GIF89a")
    (tmp_path / "notes.txt").write_text("none")
    done = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), str(tmp_path), "--backend", "onnxruntime"])
    assert done.exit_code == 1
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == [str(tmp_path / "61.png")]
    assert f"{tmp_path / 'cine.gif'}: is a file in the format GIF" in done.stderr
    assert "notes.txt" not in done.stderr


def test_one_picture_is_counted_as_one(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    words = [str(built_zoo / "ct"), str(ring_heads / "61.png"), "--backend", "onnxruntime"]
    done = CliRunner().invoke(app, ["predict", *words, "--pictures", str(tmp_path / "seen")])
    assert f"1 picture in {tmp_path / 'seen'}\n1 line, 0 failed" in done.stderr


@pytest.mark.parametrize("mode", ["each", "auto"])
def test_a_model_for_another_sequence_refuses_the_image(
    finished_run: Path, ring_heads: Path, tmp_path: Path, mode: str
) -> None:
    bundle, image = Bundle.load(finished_run), str(ring_heads / "61.png")
    for_flair = replace(bundle, scope=Scope(modality="MR", sequences=("FLAIR",)))
    for_flair.save(tmp_path / "b", bundle.network().state_dict())
    words = ["predict", str(tmp_path / "b"), image, "--backend", "torch", "--series", mode]
    reason = "the sequence is T1C+, and the model is for FLAIR MR of the head"
    assert reason in CliRunner().invoke(app, [*words, "--sequence", "t1ce"]).stdout
    assert reason not in CliRunner().invoke(app, [*words, "--sequence", "T2-FLAIR"]).stdout
    [prediction] = reslink.predict(tmp_path / "b", image, series=mode, sequence="t1ce")
    [of_classifier] = reslink.Classifier.load(tmp_path / "b", sequence="T1 Gd").predict(image)
    assert prediction.reasons == of_classifier.reasons == (reason,)


def test_images_that_the_model_abstains_from_are_counted(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(built_zoo / "ct")
    never = Conformal(coverage=0.9, per_class=False, limits=(1e-9, 1e-9), n_images=9, n_groups=9)  # every set is empty
    bundle.with_decision(bundle.decision.model_copy(update={"conformal": never}), tmp_path / "b")
    words = [str(tmp_path / "b"), str(ring_heads / "61.png"), "--backend", "onnxruntime"]
    assert "1 line, 0 failed, 1 not answered (abstention)" in CliRunner().invoke(app, ["predict", *words]).stderr


def test_no_picture_without_a_prediction_and_long_names_are_shortened(
    built_zoo: Path, ring_heads: Path, tmp_path: Path
) -> None:
    words = ["predict", str(built_zoo / "ct"), "--backend", "onnxruntime", "--pictures", str(tmp_path / "seen")]
    none = CliRunner().invoke(app, [*words, str(tmp_path / "none.png"), "--json"])
    assert (none.exit_code, none.stderr) == (1, "")
    assert not (tmp_path / "seen").exists()
    shutil.copy(ring_heads / "61.png", long := tmp_path / ("n" * 245 + ".png"))
    done = CliRunner().invoke(app, [*words, str(long), str(ring_heads / "61.png")])
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == [f"0001_{'n' * 80}.png", "0002_61.png"]


def test_usage_notes_follow_the_predictions(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "reslink", "predict", str(built_zoo / "ct"), str(ring_heads / "61.png")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = pretrained_info(Bundle.load(built_zoo / "ct").provenance)
    assert shipped is not None
    assert " ".join(shipped.usage_notes.split()) in " ".join(done.stderr.split())
    assert "1 line, 0 failed" in done.stderr


def test_without_a_prediction_there_are_no_usage_notes(built_zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = [sys.executable, "-m", "reslink", "predict", str(built_zoo / "ct"), "nowhere.png", "empty"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    missing, empty, count, *notes = done.stderr.splitlines()
    assert missing.startswith("nowhere.png: does not exist. A path is a file, a folder")
    assert empty.startswith("empty: has no images. ")
    assert (count, notes) == ("2 lines, 2 failed", [RESEARCH_USE])


def test_the_threshold_of_the_label_is_printed(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    words = [str(ring_heads / "61.png"), "--backend", "torch"]
    bundle = Bundle.load(built_zoo / "ct")
    for threshold, printed in ((0.9375, True), (None, False)):
        rule = bundle.decision.model_copy(update={"threshold": threshold, "threshold_source": "a test"})
        folder = tmp_path / str(threshold)
        bundle.with_decision(rule, folder)
        done = CliRunner().invoke(app, ["predict", str(folder), *words])
        assert done.exit_code == 0, done.stderr
        assert ("The label is Tumor at a probability of 0.938 or more (threshold: a test)" in done.stderr) == printed


def test_the_picture_folder_holds_nothing_else(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    scan, seen = tmp_path / "seen" / "0001_61.png", tmp_path / "seen"
    seen.mkdir()
    scan.write_bytes((ring_heads / "61.png").read_bytes())
    words = ["predict", str(built_zoo / "ct"), str(ring_heads / "61.png"), "--backend", "onnxruntime", "--pictures", str(seen)]
    for more in ((), ("--overwrite",)):
        refused = CliRunner().invoke(app, [*words, *more])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert f"Error: {seen} holds 0001_61.png.\n  The folder must be new or empty" in refused.stderr
    assert scan.read_bytes() == (ring_heads / "61.png").read_bytes()
    scan.unlink()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert CliRunner().invoke(app, words).exit_code == 2, "the pictures of an earlier run"
    drawn = [path.name for path in seen.iterdir()]
    (seen / ".DS_Store").write_text("hidden")
    none = [word if word != str(ring_heads / "61.png") else str(tmp_path / "none.png") for word in words]
    for given, more, code in ((words, ("--csv", str(ring_heads / "61.png")), 2), (none, (), 1)):
        assert CliRunner().invoke(app, [*given, "--overwrite", *more]).exit_code == code
        assert {path.name for path in seen.iterdir()} == {*drawn, ".DS_Store"}, "removed only for a new picture"
    words[2] = str(ring_heads / "62.png")
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    assert {path.name for path in seen.iterdir()} == {".DS_Store", "0001_62.png"}, "runs are not mixed"
    alone = CliRunner().invoke(app, [*words[:-2], "--overwrite"])
    assert alone.exit_code == 2
    assert "--overwrite was given without --pictures" in alone.stderr


def test_only_an_earlier_table_is_overwritten(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    scan, table = tmp_path / "scan.png", tmp_path / "out.csv"
    scan.write_bytes((ring_heads / "61.png").read_bytes())
    words = ["predict", str(built_zoo / "ct"), str(scan), "--backend", "onnxruntime", "--csv"]
    refused = CliRunner().invoke(app, [*words, str(scan)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"Error: {scan} exists and is not a table of predictions.\n  Only an earlier" in refused.stderr
    assert scan.read_bytes() == (ring_heads / "61.png").read_bytes()
    for _ in range(2):
        assert CliRunner().invoke(app, [*words, str(table)]).exit_code == 0
        assert len(table.read_text().splitlines()) == 2
    for other in ("path,slice,label,probability,error,mine\r\n", "path,label\n"):
        table.write_text(other, newline="")
        assert CliRunner().invoke(app, [*words, str(table)]).exit_code == 2
        assert table.read_bytes() == other.encode()
    assert CliRunner().invoke(app, [*words, "/dev/null"]).exit_code == 2
    below = CliRunner().invoke(app, [*words, str(scan / "out.csv")])
    assert below.exit_code == 1
    assert f"Error: {scan / 'out.csv'} could not be written: " in below.stderr


def test_an_orientation_that_is_not_stated_is_said_once(built_zoo: Path, tmp_path: Path) -> None:
    from pydicom import dcmread

    from reslink.datasets.phantom import writers
    from reslink.datasets.phantom.cohort import render_slice

    info = writers.SliceInfo("P0001", 0, 0.0, 232 / 96, 4.0, 50, 5)
    content = writers.write_dicom(render_slice(5, 1, tumor=True, sequence="CT", size=96).pixels, True, "CT", info)
    for i in range(3):
        path = tmp_path / f"{i}.dcm"
        path.write_bytes(content)
        if i:
            dataset = dcmread(path)
            del dataset.ImageOrientationPatient
            dataset.save_as(path)
    words = ["predict", str(built_zoo / "ct"), *(str(tmp_path / f"{i}.dcm") for i in range(3))]
    done = CliRunner().invoke(app, words)
    assert " ".join(done.stderr.split()).count("2 lines: the file does not state its orientation") == 1
    done = CliRunner().invoke(app, [*words, "--json"])
    notes = [json.loads(line)["notes"] for line in done.stdout.splitlines()]
    assert [len(note) for note in notes[:3]] == [0, 1, 1]


@pytest.mark.parametrize(("mode", "code", "lines"), [("auto", 0, 3), ("each", 0, 2), ("only", 1, 1)])
def test_a_volume_without_a_head_fails_only_if_its_series_was_asked_for(
    built_zoo: Path, tmp_path: Path, mode: str, code: int, lines: int
) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 64, 64), np.uint8))
    words = ["predict", str(built_zoo / "ct"), str(tmp_path / "v.npy"), "--series", mode]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, len(done.stdout.splitlines())) == (code, min(lines, 2) if mode != "only" else 0), done.stderr
    assert ("no answer for the series of 2 slices" in done.stderr) == (mode != "each")
    table = tmp_path / "p.csv"
    assert CliRunner().invoke(app, [*words, "--csv", str(table)]).exit_code == code
    assert len(table.read_text().splitlines()) == lines + 1


def test_a_series_has_a_line_and_a_row_of_its_own(built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    volume = np.stack([np.asarray(Picture.open(ring_heads / f"{i}.png").convert("L")) for i in (60, 61)])
    np.save(tmp_path / "v.npy", volume)
    words = ["predict", str(built_zoo / "ct"), str(tmp_path / "v.npy")]
    done = CliRunner().invoke(app, words)
    *_, last = done.stdout.splitlines()
    assert last.split("\t")[1].startswith("P(Tumor) 0.")
    assert "(threshold 0." in last
    assert last.split("\t")[2] == f"{tmp_path / 'v.npy'} series of 2 slices"
    CliRunner().invoke(app, [*words, "--csv", str(tmp_path / "p.csv")])
    with (tmp_path / "p.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["series_slices"] for row in rows] == ["", "", "2"]
    assert len({row["threshold"] for row in rows}) == 1
    assert all(row["certainty"] for row in rows)


def test_a_folder_gives_the_same_table_with_worker_processes(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(blocks, "FILES_BEFORE_WORKERS", 10)
    monkeypatch.setattr(blocks, "worker_pool", lambda workers: started.append(workers) or worker_pool(workers))
    tables = []
    for threads in (1, 2):
        tables.append(tmp_path / f"{threads}.csv")
        words = ["predict", str(built_zoo / "ct"), str(ring_heads), "--csv", str(tables[-1])]
        done = CliRunner(env={"OMP_NUM_THREADS": str(threads)}).invoke(app, words)
        assert done.exit_code == 0, done.output
        assert started == [2] * (threads - 1)
    assert len(tables[0].read_text().splitlines()) == 91
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_a_name_that_ends_in_parquet_gives_a_parquet_table(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in (60, 61):
        (images / f"{i}.png").write_bytes((ring_heads / f"{i}.png").read_bytes())
    (images / "broken.png").write_bytes(b"\x89PNG no picture")
    words = ["predict", str(built_zoo / "ct"), str(images), "--csv"]
    for name in ("t.csv", "t.Parquet"):
        done = CliRunner().invoke(app, [*words, str(tmp_path / name)])
        assert done.exit_code == 1
        assert f"written to {tmp_path / name}" in " ".join(done.stderr.split())
    with (tmp_path / "t.csv").open(newline="") as stream:
        expected = [(row["path"], row["error"], row["p_Tumor"]) for row in csv.DictReader(stream)]
    rows = pq.read_table(tmp_path / "t.Parquet").to_pylist()
    assert [(row["path"], row["error"] or "", "" if row["error"] else repr(row["p_Tumor"])) for row in rows] == expected
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("reslink.inference.blocks.read_image", None)  # it is refused before the first image is read
    refused = CliRunner().invoke(app, [*words, str(tmp_path / "other.parquet")])
    assert refused.exit_code == 2
    assert "The package 'pyarrow' is not installed" in refused.stderr
    assert not (tmp_path / "other.parquet").exists()


def test_a_table_of_errors_says_the_first_on_the_terminal(built_zoo: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    one = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), "none.png", "--csv", str(table)])
    assert one.exit_code == 1
    assert "none.png does not exist. A path is a file, a folder or a glob" in " ".join(one.stderr.split())
    table.unlink()
    two = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), "none.png", "nor.png", "--csv", str(table)])
    assert "The first of 2 errors: none.png does not exist" in " ".join(two.stderr.split())


def test_a_table_is_not_written_to_a_url(
    built_zoo: Path, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = str(ring_heads / "61.png")
    for option in ("--csv", "--pictures"):
        done = CliRunner().invoke(app, ["predict", str(built_zoo / "ct"), image, option, "s3://heads/out"])
        assert done.exit_code == 2
        assert f"{option} s3://heads/out is a URL" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_is_not_replaced_by_one_without_an_answer(name: str, built_zoo: Path, ring_heads: Path, tmp_path: Path) -> None:
    words, table = ["predict", str(built_zoo / "ct"), "--csv", str(tmp_path / name)], tmp_path / name
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    first = CliRunner().invoke(app, [*words, str(tmp_path / "broken.png")])
    assert first.exit_code == 1
    assert table.exists(), "a first table lists the errors"
    assert CliRunner().invoke(app, [*words, str(ring_heads)]).exit_code == 0
    answers = table.read_bytes()
    second = CliRunner().invoke(app, [*words, str(tmp_path / "broken.png")])
    assert second.exit_code == 1
    assert (
        f"No file could be predicted, so {table} was not replaced. The first error: {tmp_path / 'broken.png'}" in second.stderr
    )
    assert table.read_bytes() == answers
