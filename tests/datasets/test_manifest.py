"""Data sets as people have them, good and bad."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from PIL import Image as Picture

from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.imaging.reading import find_images
from reslink.labels import Labels


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def table(root: Path, text: str | bytes, name: str = "manifest.csv") -> Path:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return put(tmp_path, "a1.png", "a2.png", "b1.png", "b2.png", "m/b1.png")


FOUR = "a1.png,a\na2.png,a\nb1.png,b\nb2.png,b\n"


class TestFolder:
    def test_each_folder_is_a_class_and_order_is_by_name(self, tmp_path: Path) -> None:
        put(tmp_path, "Tumor/2.png", "Tumor/deep/1.dcm", "Healthy/1.png", "Healthy/2.png")
        manifest = Manifest.open(tmp_path)
        assert manifest.labels.names == ("Healthy", "Tumor")
        assert [case.name for case in manifest.cases] == [
            "Healthy/1.png",
            "Healthy/2.png",
            "Tumor/2.png",
            "Tumor/deep/1.dcm",
        ]
        assert manifest.targets == [0, 0, 1, 1]
        assert all(case.path.is_absolute() and case.path.is_file() for case in manifest.cases)
        assert (manifest.root, len(manifest)) == (tmp_path, 4)

    def test_non_image_files_are_skipped(self, tmp_path: Path) -> None:
        put(tmp_path, "a/1.png", "a/2", "b/1.png", "b/2.png", "masks/1.png", "Masks2/x.png", "Masks2/y.png")
        put(tmp_path, ".git/config", "a/.hidden.png", "a/Thumbs.db", "a/notes.txt", "a/README", "b/masks/1.png")
        manifest = Manifest.open(tmp_path)
        assert manifest.labels.names == ("Masks2", "a", "b")
        assert [case.name for case in manifest.cases if case.label == "a"] == ["a/1.png", "a/2"]
        assert [case.name for case in manifest.cases if case.label == "b"] == ["b/1.png", "b/2.png"]

    def test_folders_named_like_splits_contain_the_classes(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("Training", "Testing") for c in ("a", "b") for i in range(2)))
        manifest = Manifest.open(tmp_path)
        assert manifest.labels.names == ("a", "b")
        assert {(case.name.split("/")[0], case.split) for case in manifest.cases} == {
            ("Training", "train"),
            ("Testing", "test"),
        }

    def test_a_relative_path_and_a_trailing_slash_are_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "d/a/1.png", "d/a/2.png", "d/b/1.png", "d/b/2.png")
        monkeypatch.chdir(tmp_path)
        assert Manifest.open("d/").root == tmp_path / "d"

    def test_classes_may_be_links(self, tmp_path: Path) -> None:
        put(tmp_path, "real/a/1.png", "real/a/2.png", "real/b/1.png", "real/b/2.png")
        (tmp_path / "view").mkdir()
        (tmp_path / "view" / "x").symlink_to(tmp_path / "real" / "a")
        (tmp_path / "view" / "y").symlink_to(tmp_path / "real" / "b")
        assert Manifest.open(tmp_path / "view").cases[0].name == "x/1.png"

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ((), "is empty"),
            (("1.png", "2.png"), "no class folders and no manifest.csv"),
            (("a/1.png", "a/2.png"), "only the class 'a'"),
            (("a/1.png", "a/2.png", "b/1.png"), "class 'b' has only one case"),
            (("a/1.png", "a/2.png", "b/.keep"), "class folder 'b' .* has no images"),
            (("Tumor/1.png", "Tumor/2.png", "tumor/1.png", "tumor/2.png"), "'Tumor' and 'tumor'"),
            (("a/1.png", "a/2.png", "a /1.png", "a /2.png"), "same name apart from spaces"),
            (("train/1.png", "test/a/1.png"), "named like a split but has no class folders"),
        ],
    )
    def test_refused(self, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(put(tmp_path, *names))

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere does not exist\. DATA is a folder of class folders"):
            Manifest.open(tmp_path / "nowhere")


class TestTable:
    def test_all_columns(self, images: Path) -> None:
        table(
            images,
            "path,label,patient_id,mask,split,age\n"
            "a1.png,a,p1,,train,40\na2.png,a,p2,,val,\nb1.png,b,p3,m/b1.png,Testing,60\nb2.png,b,,,train,70\n",
        )
        manifest = Manifest.open(images)
        one, two, three, four = manifest.cases
        assert (one.patient_id, one.split, one.mask, dict(one.extra)) == ("p1", "train", None, {"age": "40"})
        assert (two.split, three.split, three.mask) == ("validation", "test", images / "m" / "b1.png")
        assert (four.patient_id, four.name) == (None, "b2.png")

    @pytest.mark.parametrize(
        "text",
        [
            codecs.BOM_UTF8 + f"path,label\n{FOUR}".encode(),
            f"path;label\n{FOUR}".replace(",", ";"),
            f"Path\tLABEL\r\n{FOUR}".replace(",", "\t").replace("\n", "\r\n"),
            f"\n\npath,label\n\n{FOUR}\n , \n",
            f"label, path\n{''.join(f'{r[7]} , {r[:6]}' + chr(10) for r in FOUR.split())}",
            f"path,label\n{FOUR}{FOUR}",
            f"path,label\n{FOUR}".replace("a1.png", "./m/../a1.png"),
            f"path,label\n{FOUR}".replace("a1.png", '"a1.png"'),
            f"path,label\n{FOUR}".encode("utf-16"),
        ],
        ids=["bom", "semicolon", "tab", "blank lines", "spaces", "twice alike", "dots", "quotes", "utf-16"],
    )
    def test_ways_of_writing_the_same(self, images: Path, text: str | bytes) -> None:
        manifest = Manifest.open(table(images, text, "cohort.csv"))
        assert [(case.name, case.label) for case in manifest.cases] == [
            ("a1.png", "a"),
            ("a2.png", "a"),
            ("b1.png", "b"),
            ("b2.png", "b"),
        ]

    def test_backslashes_of_windows(self, images: Path) -> None:
        table(
            images,
            f"path,label,mask\n{FOUR.replace(chr(10), ',' + chr(10))}".replace("b1.png,b,", "b1.png,b,m\\b1.png"),
        )
        assert Manifest.open(images).cases[2].mask == images / "m" / "b1.png"

    def test_a_table_in_the_folder_comes_before_class_folders(self, images: Path) -> None:
        put(images, "x/1.png", "y/1.png")
        table(images, f"path,label\n{FOUR}")
        assert Manifest.open(images).labels.names == ("a", "b")

    def test_a_table_that_may_not_be_read(self, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table(images, f"path,label\n{FOUR}")

        def forbidden(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", forbidden)
        with pytest.raises(UsageError, match=r"manifest\.csv cannot be read: Permission denied.*DATA is a folder.*permissions"):
            Manifest.open(images)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no column 'path'.*; it is empty"),
            ("file,label\na1.png,a\n", "no column 'path'.*Add the column 'path'"),
            ("path,lable\na1.png,a\n", "no column 'label'.*Did you mean 'lable'. Rename it to 'label'"),
            ("path,label,label\na1.png,a,b\n", "two columns 'label'"),
            ("path,label\n", "no rows below its header"),
            ("path,label\na1.png,a\na2.png,a\n", "only the class 'a'"),
            ("path,label\na1.png,a\na2.png,a\nb1.png,b\n", "class 'b' has only one case"),
            ("path,label\na1.png,Tumor\na2.png,Tumor\nb1.png,tumor\nb2.png,tumor\n", "'Tumor' and 'tumor'"),
            (
                b"path,label\na1.png,\xff\xfe\xfa\n",
                "cannot be read as text: it is not UTF-8.*DATA is a folder.*Give the folder",
            ),
            (b"\xff\xfep\x00a", "cannot be read as text: it is not UTF-16.*save the table as"),
            ('path,label\na1.png,"a\n', "is not CSV"),
        ],
    )
    def test_refused(self, images: Path, text: str | bytes, message: str) -> None:
        table(images, text)
        with pytest.raises(UsageError, match=message):
            Manifest.open(images)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("nowhere.png,a", "Row 6 of manifest.csv names 'nowhere.png', which does not exist"),
            (",a", "Row 6 of manifest.csv has no 'path'"),
            ("m/b1.png,", "Row 6 of manifest.csv has no 'label'"),
            ("m/b1.png,a,,,,,", None),
            ("m/b1.png,a,x,y,z,w,v", "Row 6 of manifest.csv has 7 cells, but the header has 5"),
            ("a1.png,b", "Row 6 of manifest.csv names 'a1.png' again with the label 'b', but row 2 has 'a'"),
            ("a1.png,a,p1", "names 'a1.png' again with other details than row 2"),
            ("../secret.png,a", "Row 6 .*'../secret.png', which is outside"),
            ("m/../../secret.png,a", "is outside"),
            ("..\\secret.png,a", "is outside"),
            ("/etc/passwd,a", "Row 6 .*'/etc/passwd', which is outside"),
            ("m/b1.png,a,,/etc/passwd,", "is outside"),
            ("m/b1.png,a,,nowhere.png,", "Row 6 .*'nowhere.png', which does not exist"),
            ("m/b1.png,a,,,tset", "Row 6 .*the split 'tset'.*Did you mean 'test'"),
            ("m,a", "Row 6 .*names the folder 'm'.*a volume or a series has no single label"),
            ("m/b1.png\0,a", "Row 6 .*control character"),
        ],
    )
    def test_row_refused_by_its_number(self, images: Path, row: str, message: str | None) -> None:
        (images.parent / "secret.png").write_bytes(b"x")
        table(images, f"path,label,patient_id,mask,split\n{FOUR}{row}\n")
        if message is None:
            assert len(Manifest.open(images)) == 5
            return
        with pytest.raises(UsageError, match=message):
            Manifest.open(images)

    def test_an_absolute_path_below_the_table_is_fine(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}".replace("a1.png", str(images / "a1.png")))
        assert Manifest.open(images).cases[0].name == "a1.png"

    def test_cells_beyond_the_limit_of_csv(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}{'x' * 200_000},a\n")
        with pytest.raises(UsageError, match=r"Row 6 of .* is not CSV"):
            Manifest.open(images)


class TestClasses:
    def test_a_stated_order(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}")
        manifest = Manifest.open(images, class_order=["b", "a"])
        assert manifest.labels.names == ("b", "a")
        assert manifest.targets == [1, 1, 0, 0]

    def test_an_order_that_does_not_fit(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}")
        with pytest.raises(UsageError, match="does not match the classes"):
            Manifest.open(images, class_order=["b", "c"])

    def test_data_for_a_trained_model_may_lack_a_class(self, images: Path) -> None:
        table(images, "path,label\nb1.png,b\n")
        manifest = Manifest.open(images, labels=Labels(("a", "b")))
        assert manifest.targets == [1]

    def test_a_label_that_is_not_a_class_of_the_model(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}".replace(",b", ",Tumour"))
        with pytest.raises(UsageError, match=r"b1.png has the label 'Tumour'.*Did you mean 'Tumor'"):
            Manifest.open(images, labels=Labels(("a", "Tumor")))


class TestDigest:
    @pytest.fixture
    def data(self, images: Path) -> Path:
        table(images, "path,label,mask\na1.png,a,\na2.png,a,\nb1.png,b,m/b1.png\nb2.png,b,\n")
        return images

    def test_independent_of_order_and_location(self, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        manifest = Manifest.open(data)
        other = put(tmp_path_factory.mktemp("other"), *(p.relative_to(data).as_posix() for p in data.rglob("*.png")))
        table(other, "path,label,mask\nb2.png,b,\nb1.png,b,m/b1.png\na1.png,a,\na2.png,a,\n")
        assert Manifest.open(other).digest() == manifest.digest()
        assert manifest.subset([3, 2, 1, 0]).digest() == manifest.digest()

    @pytest.mark.parametrize("change", ["image", "mask", "label", "removed", "order"])
    def test_sees_every_change(self, data: Path, change: str) -> None:
        before = Manifest.open(data).digest()
        if change in ("image", "mask"):
            path = data / ("a1.png" if change == "image" else "m/b1.png")
            path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        text = (data / "manifest.csv").read_text()
        if change == "label":
            (data / "manifest.csv").write_text(text.replace("a2.png,a,\nb1.png,b", "a2.png,b,\nb1.png,a"))
        if change == "removed":
            put(data, "b3.png")
            (data / "manifest.csv").write_text(text + "b3.png,b,\n")
        order = ["b", "a"] if change == "order" else None
        assert Manifest.open(data, order).digest() != before

    def test_uses_known_hashes(self, data: Path) -> None:
        manifest = Manifest.open(data)
        assert manifest.digest({"a1.png": "0" * 64}) != manifest.digest()

    def test_a_deleted_file(self, data: Path) -> None:
        manifest = Manifest.open(data)
        (data / "a2.png").unlink()
        with pytest.raises(InputError, match=r"a2.png cannot be read: No such file"):
            manifest.digest()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n", "classes", "patients", "masks"),
    [("ct", 3693, 2, 0, 0), ("mri4", 2603, 4, 0, 0), ("lgg", 2799, 2, 88, 1022)],
)
def test_the_real_sets(shared_data: Path, name: str, n: int, classes: int, patients: int, masks: int) -> None:
    manifest = Manifest.open(shared_data / name)
    assert (len(manifest), len(manifest.labels)) == (n, classes)
    assert len({case.patient_id for case in manifest.cases} - {None}) == patients
    assert sum(case.mask is not None for case in manifest.cases) == masks


def test_mask_folders_are_ignored(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Picture.new("L", (64, 64), 9).save(tmp_path / name)
    assert find_images([tmp_path]) == [tmp_path / "images" / "a.png"]
    assert find_images([tmp_path / "masks"]) == [tmp_path / "masks" / "a.png"]
