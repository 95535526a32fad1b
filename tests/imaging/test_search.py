"""Searches find every image once, through links, and count what they skip."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
from functools import lru_cache
from pathlib import Path
from typing import Any

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import uid

from reslink import remote_files
from reslink.errors import InputError
from reslink.imaging.reading import read_image
from reslink.imaging.search import FolderSearch, check_exists, find_images, is_skipped_folder, iter_images, iter_series
from reslink.remote_paths import RemotePath

GRAY = Pillow.new("L", (32, 32), 90)
PNG = b.saved(GRAY, "PNG")


def put(root: Path, *names: str, data: bytes = PNG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def put_slices(folder: Path) -> None:
    """Writes two series, whose files alternate and are not in order, and files that belong to no series or have no pixels."""
    report = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}
    places = [7.0, 1.0, 4.0, 2.0, 9.0, 3.0]
    attributes = [{"SeriesInstanceUID": f"2.25.{i % 2 + 1}", "ImagePositionPatient": [0, 0, z]} for i, z in enumerate(places)]
    attributes += [{"SeriesInstanceUID": "2.25.1", "ImagePositionPatient": None}, {"SeriesInstanceUID": "2.25.1", **report}]
    for i, own in enumerate(attributes):
        plane = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SOPInstanceUID": f"2.25.{i + 1}"}
        put(folder, f"{i}.dcm", data=b.written(b.dataset(np.zeros((8, 8), np.int16), **plane, **own)))


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def names(root: Path, searched: Path | None = None) -> list[str]:
    return [path.relative_to(searched or root).as_posix() for path in find_images([searched or root])]


def notes(root: Path) -> tuple[str, ...]:
    search = FolderSearch(root)
    for files in search.walk():
        for path in files:
            search.is_image(path)
    return search.notes()


def test_images_are_found_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{i:02d}.png" for i in range(20)))
    checked: list[Path] = []
    detect = FolderSearch.image_format
    monkeypatch.setattr(FolderSearch, "image_format", lambda self, path: checked.append(path) or detect(self, path))
    images = iter_images(tmp_path)
    assert next(images) == tmp_path / "00.png"
    assert checked == [tmp_path / "00.png"], "the other files are not checked yet"
    assert [path.name for path in images] == [f"{i:02d}.png" for i in range(1, 20)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "00.png").rename(tmp_path / "sub" / "00.png")
    images = list(iter_images(str(tmp_path / "**")))  # matches the folder, its subfolder, and all files of both
    assert len(images) == len(set(images)) == 20


def test_find_images(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.jpg", "sub/c.bin", ".hidden.png", "sub/.x/d.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "head.NRRD").write_bytes(b"NRRD0004")
    for ending in ("gif", "heic", "jp2", "mha", "mhd"):
        (tmp_path / f"other.{ending}").write_bytes(b"GIF89a")
    (tmp_path / "manifest.csv").write_text("path,label")
    others = ["other.gif", "other.heic", "other.jp2", "other.mha", "other.mhd"]
    assert names(tmp_path) == ["a.jpg", "b.png", "broken.png", "head.NRRD", *others, "sub/c.bin"]
    with pytest.raises(InputError, match=r"head\.NRRD is a file in the format NRRD"):
        read_image(tmp_path / "head.NRRD")
    assert [p.name for p in find_images([tmp_path / "b.png", str(tmp_path / "*.png"), tmp_path / "b.png"])] == [
        "b.png",
        "broken.png",
    ]
    assert [p.name for p in find_images([str(tmp_path / "**" / "c.*")])] == ["c.bin"]
    with pytest.raises(InputError, match=r"nowhere\.png does not exist"):
        find_images([tmp_path / "nowhere.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no images"):
        find_images([tmp_path / "empty"])


def test_mask_folders_are_skipped_unless_given(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "masks/a.png", "Mask/a.png")
    assert names(tmp_path) == ["images/a.png"]
    assert names(tmp_path, tmp_path / "masks") == ["a.png"]


@pytest.mark.parametrize(
    "folder",
    [
        *("$RECYCLE.BIN", "@eaDir", "@Recycle", "#recycle", "__MACOSX", ".ipynb_checkpoints", "System Volume Information"),
        *("lost+found", ".Trash-1000", ".git", "Recycler", "MASKS", "__pycache__", "#snapshot"),
    ],
)
def test_folders_of_systems_are_skipped_and_counted(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "a.png", f"{folder}/b.png", f"sub/{folder}/c.png", "sub/d.png")
    assert names(tmp_path) == ["a.png", "sub/d.png"]
    assert notes(tmp_path) == (f"2 folders were skipped: 2 {folder}",)


@pytest.mark.parametrize("folder", ["Tumor", "no tumor", "0", "1", "+", "x@y", "trash", "lost", "macosx"])
def test_other_folders_are_searched(folder: str) -> None:
    assert not is_skipped_folder(folder)


def test_skipped_files_are_counted_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a.png", "a", "scan.img0001", "._a.png", ".DS_Store", "x/.hidden.jpg", "DICOMDIR")
    put(tmp_path, "a.txt", "b.TXT", "x/c.txt", "README", "Thumbs.db", "a.png:Zone.Identifier", "odd.n o", data=b"text")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert names(tmp_path) == ["a", "a.png", "scan.img0001"]
    assert notes(tmp_path) == (
        "14 files were skipped: 3 .txt, 3 hidden, 3 without a file type, 2 broken link, 1 .db, 1 DICOMDIR, "
        "1 not a regular file",
        "Broken link: gone, loop",
    )
    [record] = caplog.records
    assert record.getMessage() == f"{tmp_path.name}: {'. '.join(notes(tmp_path))}."


def test_images_with_any_name_are_found_and_known_names_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "b.JPEG", "c.nii.gz", "d", "e.txt", "f.dat")
    opened: list[str] = []
    detect = FolderSearch.image_format
    monkeypatch.setattr(FolderSearch, "image_format", lambda self, path: opened.append(path.name) or detect(self, path))
    search = FolderSearch(tmp_path)
    assert [p.name for files in search.walk() for p in files if search.is_image(p)] == [
        *("a.png", "b.JPEG", "c.nii.gz", "d", "e.txt", "f.dat")
    ]
    assert opened == ["d", "e.txt", "f.dat"]


def test_a_broken_link_to_an_image_is_reported_by_reading(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere.png")
    assert names(tmp_path) == ["a.png"]
    with pytest.raises(InputError, match=r"a\.png cannot be opened: No such file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("denied", ["folder", "file"])
def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    put(tmp_path, "a.png", "Tumor/P1/b.png", "Tumor/scan")
    original = {"folder": os.scandir, "file": os.open}[denied]

    def refuse(path: str | Path, *args: object) -> object:
        if Path(path).name in ("P1", "scan"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args)

    monkeypatch.setattr(os, original.__name__, refuse)
    what = "Tumor/P1" if denied == "folder" else "Tumor/scan"
    assert notes(tmp_path) == (f"1 {denied} was skipped: 1 unreadable", f"Unreadable: {what}")


def test_an_unreadable_folder_that_was_given_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be read: Permission denied\. A folder must be readable\. Check"):
        find_images([tmp_path])


class TestLinks:
    """``real`` holds the images; ``d`` is searched."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        put(tmp_path, "real/P1/1.png", "real/P2/2.png", "d/Tumor/0.png")
        return tmp_path / "d"

    def test_links_to_folders_and_files_are_followed(self, data: Path) -> None:
        (data / "Tumor" / "P1").symlink_to("../../real/P1")
        (data / "Tumor" / "2.png").symlink_to(data.parent / "real" / "P2" / "2.png")
        (data / "Healthy").symlink_to("../real")
        assert names(data) == ["Healthy/P1/1.png", "Healthy/P2/2.png", "Tumor/0.png", "Tumor/2.png"]
        assert notes(data) == ("1 folder was skipped: 1 linked twice",), "P1 was found in Healthy"

    def test_the_folder_itself_may_be_a_link(self, data: Path) -> None:
        (data.parent / "link").symlink_to("d")
        assert names(data.parent / "link") == ["Tumor/0.png"]

    @pytest.mark.parametrize("target", [".", "..", "../..", "../../real/P1", "/"])
    def test_loops_end(self, data: Path, target: str) -> None:
        (data.parent / "real" / "P1" / "back").symlink_to("../..")  # two loops through each other
        (data / "Tumor" / "loop").symlink_to(target)
        found = names(data)
        assert found == (["Tumor/0.png", "Tumor/loop/1.png"] if "real" in target else ["Tumor/0.png"])
        assert "linked twice" in notes(data)[0]

    def test_a_folder_of_the_search_is_found_under_its_own_name(self, data: Path) -> None:
        (data / "A").symlink_to("Tumor")  # before the folder, by name
        (data / "Z").symlink_to("Tumor")
        assert names(data) == ["Tumor/0.png"]
        assert notes(data) == ("2 folders were skipped: 2 linked twice",)

    def test_a_link_into_a_hidden_store_is_followed(self, data: Path) -> None:
        put(data, ".git/annex/x/3.png")
        (data / "Tumor" / "P3").symlink_to("../.git/annex/x")
        (data / "Tumor" / "4.png").symlink_to("../.git/annex/x/3.png")
        assert names(data) == ["Tumor/0.png", "Tumor/4.png", "Tumor/P3/3.png"]


def test_dicom_objects_without_pixels_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes = (uid.ComprehensiveSRStorage, uid.GrayscaleSoftcopyPresentationStateStorage, uid.EncapsulatedPDFStorage)
    for number, sop_class in enumerate(classes):
        report = b.dataset(np.zeros((16, 16), np.uint8), SOPClassUID=sop_class)
        del report.PixelData
        (tmp_path / f"{number}.dcm").write_bytes(b.written(report))
    with pytest.raises(InputError, match="has no images"):
        find_images([tmp_path])
    (tmp_path / "slice.dcm").write_bytes(b.written(b.dataset(np.zeros((16, 16), np.uint8))))
    caplog.clear()
    assert find_images([tmp_path]) == [tmp_path / "slice.dcm"]
    assert "3 files were skipped: 3 DICOM without pixels" in caplog.text
    assert find_images([tmp_path / "0.dcm"]) == [tmp_path / "0.dcm"]  # reading reports it


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["7.png", "8.jpg"], ["7_mask.png", "8_Mask.png"]),
        (["benign (1).png"], ["benign (1)_mask.png", "benign (1)_mask_1.png"]),
        (
            ["7.png"],
            ["7_seg.png", "7-segmentation.tif", "7_gt.png", "7_roi_2.png", "7_lesion_mask.png", "7mask.png", "mask_7.png"],
        ),
        (["B_1_t1.nii.gz", "B_1_flair.nii.gz"], ["B_1_seg.nii.gz"]),
        (["head.01.png"], ["head.01_mask.png", "mask_head.01.nii.gz"]),
        (["mask_1.2.png", "1.3.png"], []),
        (["seg_1.png", "seg_2.png"], []),
        (["7_mask.png", "8_mask.png"], []),
        (["labels.png", "mask.png", "7.png"], []),
        (["unmasked_7.png", "9.png"], []),
    ],
)
def test_masks_beside_their_images_are_skipped_and_counted(tmp_path: Path, images: list[str], masks: list[str]) -> None:
    put(tmp_path, *images, *masks)
    assert names(tmp_path) == sorted(images)
    verb = "file was" if len(masks) == 1 else "files were"
    counted = f"{len(masks)} {verb} skipped: {len(masks)} named like the mask of an image"
    assert notes(tmp_path) == ((counted,) if masks else ())
    assert find_images([tmp_path / name for name in masks]) == [tmp_path / name for name in masks]


@pytest.mark.parametrize("folder", ["Tumor_mask", "lesion masks", "Segmentations", "ROI", "Ground Truth", "gt"])
def test_folders_of_masks_are_skipped_by_their_words(folder: str) -> None:
    assert is_skipped_folder(folder)
    assert not is_skipped_folder("lgg-mri-segmentation")
    assert not is_skipped_folder("unmasked")


class TestRemote:
    """Folders in object storage are searched as local ones."""

    @pytest.fixture
    def bucket(self, s3: Any, tmp_path: Path) -> Path:
        picture = io.BytesIO()
        Pillow.fromarray(np.full((32, 32), 7, np.uint8)).save(picture, "PNG")
        files = {"b.png": picture.getvalue(), "a/c": picture.getvalue(), "a/c_mask.png": picture.getvalue()}
        files |= {"masks/b.png": picture.getvalue(), ".hidden.png": b"x", "notes.txt": b"x", "a/c.png": picture.getvalue()}
        for name, content in files.items():
            (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "local" / name).write_bytes(content)
            s3.put(f"search/{name}", content)
        return tmp_path / "local"

    def test_the_images_of_a_folder_are_those_of_its_copy(self, bucket: Path, caplog: pytest.LogCaptureFixture) -> None:
        local = [path.relative_to(bucket).as_posix() for path in find_images([bucket])]
        [expected] = [record.getMessage() for record in caplog.records]
        caplog.clear()
        assert sorted(local) == ["a/c", "a/c.png", "b.png"]
        assert sorted(map(str, find_images(["s3://heads/search/"]))) == [f"s3://heads/search/{name}" for name in sorted(local)]
        [message] = [record.getMessage() for record in caplog.records]
        assert message.partition(": ")[2] == expected.partition(": ")[2]

    @pytest.mark.parametrize("page", [1, 3, 1000])
    def test_masks_series_and_hidden_files_across_pages(
        self, s3: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, page: int
    ) -> None:
        """Every second answer is 503, the folders are those of the local copy, and are sorted by their first file."""
        put(tmp_path, "README.txt", "a/notes.txt", "a/b/.DS_Store", data=b"x")
        put(tmp_path, "zz.png", "0.png", ".hidden.png", "a/7.png", "a/8.png", "a/mask_7.png", "a/zz_mask.png", "a/zz.png")
        put(tmp_path, "a/7_mask.png", "a/9_mask.png", "a/b/1.png", "a-b/1.png", "a-b/c/2.png", "a-b/1_seg.png", "b/d/ä.png")
        put(tmp_path, "a/masks/1.png", "a/masks/sub/2.png", "a-b/masks/1.png", ".cache/1.png", "__MACOSX/a/1.png", "d/m.png")
        put_slices(tmp_path / "d")
        put_slices(tmp_path / "a" / "b")
        keys = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
        prefix = f"pages-{page}"
        for key in keys:
            s3.put(f"{prefix}/{key}", (tmp_path / key).read_bytes())
        local = [[path.relative_to(tmp_path).as_posix() for path in files] for files in iter_series(tmp_path)]
        [expected] = [record.getMessage().partition(": ")[2] for record in caplog.records]
        caplog.clear()
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(page))
        s3.reset()
        s3.refuse = lambda number, *_: number % 2 == 0
        remote = [
            [str(path).removeprefix(f"s3://heads/{prefix}/") for path in files] for files in iter_series(f"s3://heads/{prefix}")
        ]
        assert sum(path == "/heads" for _, path in s3.requests) in (2 * -(-len(keys) // page), 2 * -(-len(keys) // page) - 1)
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [expected]
        assert "named like the mask of an image" in expected
        order = list(dict.fromkeys(folder_of(key) for key in keys))
        assert remote == sorted(local, key=lambda files: order.index(folder_of(files[0])))
        assert sum(len(files) > 1 for files in remote) == 4

    @pytest.mark.parametrize("seed", range(5))
    def test_any_tree_in_any_order_is_that_of_its_copy(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        drawn = random.Random(seed)
        parts, words = ["a", "a-b", "A", "masks", ".x", "b c"], ["1", "2", "1_mask", "mask_2", "2_t1", "2_seg", ".h", "ä"]
        for _ in range(80):
            folders = drawn.choices(parts, k=drawn.randrange(4))
            put(tmp_path, "/".join([*folders, f"{drawn.choice(words)}{drawn.choice(['.png', '.nii.gz', '.npy'])}"]))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        listed = [RemotePath(f"s3://heads/x/{path.relative_to(tmp_path).as_posix()}", "v") for path in files]
        monkeypatch.setattr("reslink.imaging.search.list_folder", lambda _: iter(drawn.sample(listed, len(listed))))
        local = names(tmp_path)
        expected = [record.getMessage().partition(": ")[2] for record in caplog.records]
        caplog.clear()
        remote = [path.url.removeprefix("s3://heads/x/") for path in iter_images("s3://heads/x/")]
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == expected
        shown = sorted(path.relative_to(tmp_path).as_posix() for path in files if not path.name.startswith("."))
        order = list(dict.fromkeys(map(folder_of, shown)))
        assert remote == sorted(local, key=lambda name: order.index(folder_of(name)))

    def test_a_header_is_fetched_once_also_if_few_are_kept(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote_files, "_listed_start", lru_cache(maxsize=40)(remote_files._listed_start.__wrapped__))
        attributes = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "2.25.1"}
        for i in range(60):
            ds = b.dataset(
                np.zeros((8, 8), np.int16), ImagePositionPatient=[0, 0, i], SOPInstanceUID=f"2.25.{i + 1}", **attributes
            )
            s3.put(f"once/{i:02d}.dcm", b.written(ds))
        s3.reset()
        [series] = iter_series("s3://heads/once/")
        assert [path.name for path in series] == [f"{i:02d}.dcm" for i in range(60)]
        assert len(s3.requests) == 62, "two are for the folder"

    def test_the_memory_does_not_grow_with_the_number_of_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        peaks = []
        for count in (3000, 12_000):
            listed = (RemotePath(f"s3://heads/x/{i // 2:06d}{'_mask' * (i % 2)}.png", "0" * 64) for i in range(count))
            monkeypatch.setattr("reslink.imaging.search.list_folder", lambda _, listed=listed: listed)
            tracemalloc.start()
            assert sum(1 for _ in iter_images("s3://heads/x")) == count / 2
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] - peaks[0] < 9000 * 80, "a path with its version needs 800 bytes"

    @pytest.mark.usefixtures("bucket")
    def test_a_file_is_itself(self) -> None:
        assert list(map(str, find_images(["s3://heads/search/b.png", "s3://heads/search/a/c"]))) == [
            "s3://heads/search/b.png",
            "s3://heads/search/a/c",
        ]

    @pytest.mark.usefixtures("bucket")
    def test_only_files_that_may_be_dicom_are_opened(self, s3: Any) -> None:
        s3.reset()
        find_images(["s3://heads/search/"])
        assert {path.rpartition("/")[2] for method, path in s3.requests if "/search/" in path} == {"c", "notes.txt"}

    def test_a_folder_without_images(self, s3: Any) -> None:
        s3.put("nothing/notes.txt", b"x")
        with pytest.raises(InputError, match=r"s3://heads/nothing has no images\. The supported formats.*Choose a folder"):
            find_images(["s3://heads/nothing"])

    def test_a_path_is_checked_when_it_is_read(self) -> None:
        check_exists("s3://heads/none.png")
