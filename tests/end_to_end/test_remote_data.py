"""Data sets in S3: the same cases, pixels, predictions and metrics as from local files."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reslink.cli.main import app
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.remote_errors import RemoteStorageError
from reslink.remote_paths import parse_remote

SMALL = Preprocess(size=64)


def run(*words: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "heads"
    run("phantom", "--out", folder, "--patients", "6", "--set", "format=dicom")
    return folder


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def remote_table(local: Path, s3: Any, tmp_path: Path) -> Path:
    """A local table of the same images in S3."""
    for file in local.rglob("*"):
        if file.is_file():
            s3.put(f"data/{file.relative_to(local).as_posix()}", file.read_bytes())
    rows = rows_of(local / "manifest.csv")
    for row in rows:
        row |= {column: f"s3://heads/data/{row[column]}" for column in ("path", "mask") if row.get(column)}
    with (tmp_path / "remote.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    s3.reset()
    return tmp_path / "remote.csv"


def test_the_cache_of_remote_files_is_that_of_local_files(local: Path, remote_table: Path, s3: Any, tmp_path: Path) -> None:
    of_local = PixelCache.open(Manifest.open(local), SMALL, tmp_path / "a", workers=0)
    s3.refuse = lambda number, *_: number % 10 == 3  # a tenth of all requests fails
    of_remote = PixelCache.open(Manifest.open(remote_table), SMALL, tmp_path / "b", workers=2)
    assert of_local.masks is not None
    for name in ("pixels", "heads", "thumbnails", "masks", "has_mask", "targets"):
        assert np.array_equal(getattr(of_local, name), getattr(of_remote, name)), name
    assert of_remote.stated == of_local.stated
    assert [case.patient_id for case in of_remote.manifest.cases] == [case.patient_id for case in of_local.manifest.cases]
    assert of_remote.manifest.cases[0].name.startswith("s3://heads/data/")
    assert not of_remote.failed
    s3.reset()
    PixelCache.open(Manifest.open(remote_table), SMALL, tmp_path / "b", workers=0)
    images = {case.path.name for case in of_remote.manifest.cases}
    assert (
        max(sum(path.endswith(name) for method, path in s3.requests if method == "GET") for name in images) <= 2
    )  # the header


def test_a_storage_that_fails_ends_the_run_and_the_next_one_goes_on(remote_table: Path, s3: Any, tmp_path: Path) -> None:
    manifest = Manifest.open(remote_table)
    last = manifest.cases[-1].path.name
    s3.refuse = lambda *request: request[2].endswith(last)
    with pytest.raises(RemoteStorageError, match=rf"{last} cannot be fetched in 5 attempts"):
        PixelCache.open(manifest, SMALL, tmp_path / "cache", workers=0)
    s3.reset()
    assert not PixelCache.open(manifest, SMALL, tmp_path / "cache", workers=0).failed


def test_a_missing_file_is_named_as_a_local_one(remote_table: Path, s3: Any, tmp_path: Path) -> None:
    text = remote_table.read_text()
    first = rows_of(remote_table)[0]["path"]
    remote_table.write_text(text.replace(first, f"{first}.gone"))
    cache = PixelCache.open(Manifest.open(remote_table), SMALL, tmp_path / "cache", workers=0)
    [(name, message)] = cache.failed.items()
    assert name == f"{first}.gone"
    assert "cannot be fetched" in message
    assert "Check the path" in message


def test_evaluate_gives_the_same_metrics(local: Path, remote_table: Path, tmp_path: Path) -> None:
    run("evaluate", "ct", local, "--out", tmp_path / "a", "--split", "all")
    run("evaluate", "ct", remote_table, "--out", tmp_path / "b", "--split", "all")
    a, b = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab")
    assert a["metrics"] == b["metrics"]
    assert a["n"] == b["n"]


def test_predict_gives_the_same_rows_but_for_the_path(local: Path, remote_table: Path, tmp_path: Path) -> None:
    files = [row["path"] for row in rows_of(local / "manifest.csv")]
    run("predict", "ct", *(local / file for file in files), "--csv", tmp_path / "a.csv")
    run("predict", "ct", *(f"s3://heads/data/{file}" for file in files), "--csv", tmp_path / "b.csv")
    run("predict", "ct", local, "--csv", tmp_path / "c.csv")
    run("predict", "ct", "s3://heads/data/", "--csv", tmp_path / "d.csv")
    a, b, c, d = (rows_of(tmp_path / f"{name}.csv") for name in "abcd")
    for rows, others in ((a, b), (c, d)):
        assert [{**row, "path": row["path"].replace(f"{local}", "s3://heads/data")} for row in rows] == others


def test_explain_gives_the_same_values(local: Path, remote_table: Path, tmp_path: Path) -> None:
    for data, out in ((local / "manifest.csv", "a"), (remote_table, "b")):
        few = tmp_path / f"{out}.csv"
        few.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
        run("explain", "ct", few, "--root", local, "--method", "final_attention", "--out", tmp_path / out)
    a, b = (json.loads((tmp_path / name / "explain.json").read_text())["images"] for name in "ab")
    assert len(a) == len(b) == 2
    for one, other in zip(a, b, strict=True):
        assert other.pop("path").startswith("s3://heads/data/")
        one.pop("path")
        assert {name: value for name, value in one.items() if name != "files"} == {
            name: value for name, value in other.items() if name != "files"
        }


def test_a_remote_table_and_a_remote_root(local: Path, remote_table: Path, s3: Any, tmp_path: Path) -> None:
    manifest = Manifest.open("s3://heads/data/manifest.csv")
    assert [case.name for case in manifest.cases] == [case.name for case in Manifest.open(local).cases]
    assert manifest.cases[0].path.url.startswith("s3://heads/data/")  # type: ignore[attr-defined]
    same = Manifest.open(local / "manifest.csv", root="s3://heads/data")
    assert [case.path for case in same.cases] == [case.path for case in manifest.cases]
    run("split", "s3://heads/data/manifest.csv", "--out", tmp_path / "split.csv")
    paths = [row["path"] for row in rows_of(tmp_path / "split.csv")]
    assert paths == [str(case.path) for case in manifest.cases]
    assert len(Manifest.open(tmp_path / "split.csv").cases) == len(paths)
    s3.put("data/bad.csv", b"path,label\na.png,\n")
    assert (
        "Row 2 of bad.csv has no 'label'" in run("split", "s3://heads/data/bad.csv", "--out", tmp_path / "x.csv", code=2).stderr
    )


def test_audit_gives_the_same_checks(local: Path, remote_table: Path, tmp_path: Path) -> None:
    results = []
    for data, out in ((local, "a"), (remote_table, "b")):
        CliRunner().invoke(app, ["audit", str(data), "--out", str(tmp_path / out)])
        results.append(json.loads((tmp_path / out / "audit.json").read_text()))
    outcomes = [[(check["check"], check["failed"]) for check in result["checks"]] for result in results]
    assert outcomes[0] == outcomes[1]


def test_offline_names_the_path_and_opens_no_connection(remote_table: Path, s3: Any, tmp_path: Path) -> None:
    s3.reset()
    stderr = run("split", remote_table, "--out", tmp_path / "s.csv", "--offline", code=2).stderr
    assert "Row 2 of remote.csv names a path that cannot be used: s3://heads/data/" in " ".join(stderr.split())
    assert "--offline was given" in " ".join(stderr.split())
    assert s3.requests == []


def test_a_signed_url_is_in_no_output(tmp_path: Path) -> None:
    rows = [f"https://me:pass@localhost:9/{name}.png?sig=5ec7e7,{label}" for name, label in zip("abcd", "xxyy", strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.remote_files._WAITS", ())
        stderr = [
            run("split", tmp_path / "t.csv", "--out", tmp_path / "s.csv", "--debug", "--verbose", code=1).stderr,
            run("split", "https://me:pass@localhost:9/t.csv?sig=5ec7e7", "--out", tmp_path / "s.csv", "--debug", code=1).stderr,
            run("predict", "ct", "https://me:pass@localhost:9/a.png?sig=5ec7e7", "--csv", tmp_path / "p.csv", code=1).stderr,
            run("predict", "ct", "https://me:pass@localhost:9/a.png?sig=5ec7e7", "--offline", code=1).stderr,
        ]
    texts = [*stderr, *(file.read_text() for file in tmp_path.glob("*.csv") if file.name != "t.csv")]
    for secret in ("5ec7e7", "pass@"):
        assert [text for text in texts if secret in text] == []
    assert sum("https://localhost:9/" in text for text in texts) == 5  # four on the terminal, one in the table


def test_read_image_reads_a_url(local: Path, remote_table: Path) -> None:
    file = rows_of(local / "manifest.csv")[0]["path"]
    image = read_image(f"s3://heads/data/{file}")
    assert np.array_equal(image.pixels, read_image(local / file).pixels)


def test_the_state_of_a_remote_file_for_shards_changes_with_its_version(s3: Any) -> None:
    pytest.importorskip("ray")
    from reslink.cluster.shards import file_state, file_states

    path = parse_remote(s3.put("state.png", b"one"))
    assert path is not None
    first = file_state(path)
    assert first[0] == "s3://heads/state.png"
    assert file_state(path) == first
    s3.put("state.png", b"two")
    assert file_state(path) != first
    assert file_state(path.parent / "gone.png") == ["s3://heads/gone.png"]
    together = threading.Barrier(3)
    s3.reset()
    s3.refuse = lambda number, *_: number < 3 and together.wait(20) < 0  # broken if they are asked for one after the other
    paths = [path, path.parent / "gone.png", path.parent / "b.png"]
    assert [state[0] for state in file_states(paths)] == [str(one) for one in paths]
    assert not together.broken


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_the_state_of_a_file_without_an_exact_entity_tag(monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    pytest.importorskip("ray")
    from reslink import remote_files
    from reslink.cluster.shards import file_state

    path = parse_remote("https://images.org/scan.png")
    assert path is not None
    info: dict[str, Any] = {"size": 3, "ETag": tag, "Last-Modified": "Tue, 01 Dec 2026 06:00:00 GMT"}
    system = SimpleNamespace(info=lambda _: info)
    monkeypatch.setattr(remote_files, "_file_system", lambda _: (system, ""))
    first = file_state(path)
    assert file_state(path) == first
    for changed in ({"size": 4}, {"Last-Modified": "Tue, 01 Dec 2026 06:00:01 GMT"}):
        info = {**info, **changed}
        assert file_state(path) != first
    info = {"size": 3, "ETag": tag}
    assert file_state(path) != file_state(path)
