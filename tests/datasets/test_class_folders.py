"""Class folders as people have them: usual layouts are read, layouts with several meanings are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from data_files import put

from reslink.datasets.case import SPLIT_NAMES
from reslink.datasets.class_folders import _split_of, cases_of_folder
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError


def classes(root: Path, *folders: str, n: int = 3) -> Path:
    """Puts ``n`` images into each folder; braces stand for several folders, as in a shell."""
    for folder in folders:
        head, _, rest = folder.partition("{")
        inner, _, tail = rest.partition("}")
        for name in inner.split(","):
            put(root, *(f"{head}{name}{tail}/{i}.png" for i in range(n)))
    return root


def read(root: Path) -> tuple[dict[tuple[str, str | None], int], tuple[str, ...]]:
    """Returns the number of cases by class and split, and the notes."""
    cases, notes = cases_of_folder(root)
    return dict(Counter((case.label, case.split) for case in cases)), notes


def test_each_folder_is_a_class_and_order_is_by_name(tmp_path: Path) -> None:
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
    assert (manifest.root, len(manifest), manifest.notes) == (tmp_path, 4, ())


def test_non_image_files_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a/1.png", "a/2.jpg", "b/1.png", "b/2.png", "masks/1.png", "Masks2/x.png", "Masks2/y.png")
    put(tmp_path, ".git/config", "a/.hidden.png", "a/Thumbs.db", "a/notes.txt", "a/README", "b/masks/1.png", "x/@eaDir/1.png")
    put(tmp_path, "$RECYCLE.BIN/1.png", "__MACOSX/a/._1.png", "a/._1.png")
    (tmp_path / "x").rename(tmp_path / "a" / "x")
    manifest = Manifest.open(tmp_path)
    assert manifest.labels.names == ("Masks2", "a", "b")
    assert [case.name for case in manifest.cases if case.label == "a"] == ["a/1.png", "a/2.jpg"]
    assert [case.name for case in manifest.cases if case.label == "b"] == ["b/1.png", "b/2.png"]
    assert manifest.notes == (
        "5 files were skipped: 2 hidden, 1 .db, 1 .txt, 1 without a file type",
        "6 folders were skipped: 2 masks, 1 $RECYCLE.BIN, 1 .git, 1 @eaDir, 1 __MACOSX",
        "No folder is named like a finding; the classes are Masks2, a and b",
    )
    skipped, classes_note = ". ".join(manifest.notes[:2]), manifest.notes[2]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path.name}: {skipped}.", f"{classes_note}."]


def test_images_are_recognized_by_content(tmp_path: Path) -> None:
    classes(tmp_path, "{a,b}")
    (tmp_path / "a" / "IM000001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "a" / "scan.txt").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "a" / "text").write_bytes(b"text")
    assert [case.name for case in Manifest.open(tmp_path).cases[3:5]] == ["a/IM000001", "a/scan.txt"]


@pytest.mark.parametrize(
    "name", ["yes no", "0 1", "normal abnormal", "pos neg", "grade1 grade2", "T1 T2", "class_0 class_1", "type 1"]
)
def test_class_names_stay_as_given(tmp_path: Path, name: str) -> None:
    classes(tmp_path, *name.split())
    assert Manifest.open(tmp_path).labels.names == tuple(sorted(name.split()))


def test_a_relative_path_and_a_trailing_slash_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path, "d/{a,b}")
    monkeypatch.chdir(tmp_path)
    assert Manifest.open("d/").root == tmp_path / "d"


class TestLinks:
    def test_classes_may_be_links(self, tmp_path: Path) -> None:
        classes(tmp_path, "real/{a,b}")
        (tmp_path / "view").mkdir()
        (tmp_path / "view" / "x").symlink_to(tmp_path / "real" / "a")
        (tmp_path / "view" / "y").symlink_to(tmp_path / "real" / "b")
        assert Manifest.open(tmp_path / "view").cases[0].name == "x/0.png"

    def test_patient_folders_may_be_links(self, tmp_path: Path) -> None:
        classes(tmp_path, "real/{P1,P2,P3}", "d/{Tumor,Healthy}/P0")
        for patient, label in (("P1", "Tumor"), ("P2", "Tumor"), ("P3", "Healthy")):
            (tmp_path / "d" / label / patient).symlink_to(tmp_path / "real" / patient)
        assert read(tmp_path / "d") == ({("Tumor", None): 9, ("Healthy", None): 6}, ())

    @pytest.mark.parametrize(
        ("link", "target"),
        [("train", "pool/a"), ("test_set", "pool/a"), ("Valid", "pool"), ("splits/val2017", "../pool/a"), ("test", ".")],
    )
    def test_a_split_that_links_to_folders_of_the_data_set_is_refused(self, tmp_path: Path, link: str, target: str) -> None:
        classes(tmp_path, "pool/a/{Tumor,Healthy}", "pool/b/{Tumor,Healthy}")
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(target)
        with pytest.raises(UsageError, match=rf"{link} is a link to a folder that is read under its own name") as caught:
            cases_of_folder(tmp_path)
        assert str(tmp_path) not in str(caught.value)

    def test_a_split_that_links_to_a_split_already_visited_is_refused(self, tmp_path: Path) -> None:
        classes(tmp_path / "d", "train/{Tumor,Healthy}")
        classes(tmp_path, "real/{Tumor,Healthy}")
        (tmp_path / "d" / "test").symlink_to("../real")
        (tmp_path / "d" / "val").symlink_to("../real")
        with pytest.raises(UsageError, match="val is a link to a folder that is read under its own name"):
            cases_of_folder(tmp_path / "d")

    def test_splits_may_be_links(self, tmp_path: Path) -> None:
        classes(tmp_path, "pool/a/{Tumor,Healthy}", "pool/b/{Tumor,Healthy}", n=1)
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "train").symlink_to("../pool/a")
        (tmp_path / "d" / "test").symlink_to("../pool/b")
        assert read(tmp_path / "d") == ({(name, part): 1 for name in ("Tumor", "Healthy") for part in ("train", "test")}, ())

    def test_a_class_linked_under_another_name_is_counted_once(self, tmp_path: Path) -> None:
        classes(tmp_path, "{Tumor,Healthy}")
        (tmp_path / "Cancer").symlink_to("Tumor")
        counts, notes = read(tmp_path)
        assert counts == {("Tumor", None): 3, ("Healthy", None): 3}
        assert notes == ("1 folder was skipped: 1 linked twice",)


class TestSplits:
    @pytest.mark.parametrize(
        "names",
        [
            *("Training Testing", "train test", "train_set test_set", "training-data testing-data", "TrainData TestData"),
            *("train valid test", "Train Val Test", "TRAIN DEV TEST", "train validation holdout", "train2017 val2017"),
            *("1_train 2_valid 3_test", "train images,test images", "dataset_train dataset_test", "training-set hold-out"),
        ],
    )
    def test_splits_with_class_folders(self, tmp_path: Path, names: str) -> None:
        folders = names.split(",") if "," in names else names.split()
        for name in folders:
            classes(tmp_path, f"{name}/{{glioma,notumor}}")
        counts, notes = read(tmp_path)
        expected = (
            {"train", "validation", "test"} if len(folders) == 3 else {"train", "validation" if "val" in names else "test"}
        )
        assert counts == {(label, split): 3 for label in ("glioma", "notumor") for split in expected}
        assert notes == ()

    @pytest.mark.parametrize("names", ["train test", "Training Testing", "train_set val_set", "Train Valid Test"])
    def test_classes_with_split_folders(self, tmp_path: Path, names: str) -> None:
        for name in names.split():
            classes(tmp_path, f"{{glioma,notumor}}/{name}", n=2)
        counts, _ = read(tmp_path)
        assert counts.keys() == {(label, split) for label in ("glioma", "notumor") for split in ("train", *_other(names))}

    @pytest.mark.parametrize("other", ["runs/classify/train", "weights", "extra", "runs/exp", "Results/figures"])
    def test_other_folders_beside_splits_are_skipped_and_named(self, tmp_path: Path, other: str) -> None:
        classes(tmp_path, "Training/{yes,no}", "Testing/{yes,no}", other)
        put(tmp_path, "logo.png", "Training/x.png", "logs/log.txt")
        counts, notes = read(tmp_path)
        assert counts == {(label, split): 3 for label in ("yes", "no") for split in ("train", "test")}
        name = other.split("/")[0]
        assert notes == (
            "1 file was skipped: 1 .txt",
            "1 image beside the class folders was skipped, such as Training/x.png",
            f"{name} is neither a split nor a class and was skipped (3 images)",
            "1 image beside the class folders was skipped, such as logo.png",
        )

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (
                ["train/{a,b}", "test/{a,b}", "extra/{a,b}"],
                r"extra is not named like a split, but holds classes .*extra/\{a, b\}",
            ),
            (["train/{a,b}", "test/{a,b}", "archive/train/{a,b}"], r"archive is not named like a split, but holds classes"),
            (["train/{a,b}", "test/{a,b}", "a"], r"a is not named like a split, but holds classes"),
            (["train/{a,b}", "eval/{a,b}"], r"eval is not named like a split"),
            (["train/{a,b}", "test"], r"test is named like a split but has no class folders.*Put the class folders into it"),
            (["{yes,no}", "test"], r"test is named like a split but has no class folders"),
            (["train/{a,b}", "test/{a,b,c}"], r"test split has images of c, but the train split has none.*Training|train"),
            (["train/{glioma,no}", "test/{glioma_tumor,no}"], r"has images of glioma_tumor, but the train split has none"),
            (
                ["train/{glioma_tumor,no}", "test/{glioma tumor,no}"],
                r"'glioma tumor' .* and 'glioma_tumor' .* differ only in",
            ),
            (["train/{Glioma,no}", "test/{glioma,no}"], r"'glioma' .* and 'Glioma' .* differ only in case"),
            (["{a,b}/train", "{a,b}/test", "b/more"], r"Some images of b are in no split.*a/\{test, train\}"),
            (["{a,b}/train", "a/test", "c"], r"Some images of c are in no split"),
            (["a/train", "{a,b}/test"], r"test split has images of b, but the train split has none"),
        ],
    )
    def test_refused(self, tmp_path: Path, folders: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(classes(tmp_path, *folders))

    def test_a_split_without_images_is_refused(self, tmp_path: Path) -> None:
        classes(tmp_path, "train/{a,b}", "test/{a,b}")
        put(tmp_path, "valid/a/.keep")
        with pytest.raises(UsageError, match=r"split folder 'valid' in .* has no images\. .*Add images"):
            Manifest.open(tmp_path)

    def test_a_class_that_a_split_lacks_is_named(self, tmp_path: Path) -> None:
        classes(tmp_path, "train/{a,b,tumor}", "test/{a,b}")
        assert read(tmp_path)[1] == ("The test split has no image of tumor",)


def _other(names: str) -> list[str]:
    return [split for split, part in (("validation", "val"), ("test", "test")) if part in names.lower()]


class TestWrappers:
    @pytest.mark.parametrize(
        ("wrapper", "folders"),
        [
            ("archive", ["{yes,no}"]),
            ("archive/brain_tumor_dataset", ["{yes,no}"]),
            ("archive/Brain Tumor/data", ["{a,b}"]),
            ("Tumor", ["Training/{a,b}", "Testing/{a,b}"]),
            ("Brain Tumor", ["{glioma,meningioma}"]),
            ("data", ["{x,y}/train", "{x,y}/test"]),
            ("数据", ["{normal,tumor}"]),
        ],
    )
    def test_a_single_folder_is_entered_and_named(self, tmp_path: Path, wrapper: str, folders: list[str]) -> None:
        expected = classes(tmp_path / "plain", *folders)
        classes(tmp_path / "d" / wrapper, *folders)
        put(tmp_path, "d/__MACOSX/x.png", "d/runs/y.txt")
        counts, notes = read(tmp_path / "d")
        assert counts == read(expected)[0]
        assert f"The class folders are in {wrapper}" in notes
        assert all(case.name.startswith(wrapper) for case in Manifest.open(tmp_path / "d").cases)

    def test_the_only_class_is_not_a_wrapper(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="only the class 'Tumor'"):
            Manifest.open(classes(tmp_path, "Tumor/{axial,coronal}"))

    def test_a_wrapped_table(self, tmp_path: Path) -> None:
        classes(tmp_path, "study/{images,more}")
        put(tmp_path, "study/manifest.csv")
        with pytest.raises(UsageError, match=rf"study holds a manifest\.csv\. .*Give {tmp_path}/study as DATA"):
            Manifest.open(tmp_path)

    def test_a_class_in_another_class(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"a holds the folder b again, with other images.*move that folder"):
            Manifest.open(classes(tmp_path, "{a,b,c}", "a/b"))

    @pytest.mark.parametrize("wrapper", ["brain_tumor_dataset/{yes,no}", "archive/data/{Yes,NO}", "copy/{train,test}/yes"])
    @pytest.mark.parametrize("same", [True, False])
    def test_the_same_classes_again(self, tmp_path: Path, wrapper: str, same: bool) -> None:
        classes(tmp_path, "{yes,no}", wrapper)
        if wrapper.startswith("copy"):
            classes(tmp_path, "copy/test/no", "copy/train/no")
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(b"same" if same else path.as_posix().encode())
        expected = (
            f"holds the folders no and yes again, with {'the same' if same else 'other'} images.*no/, yes/.*move that folder"
        )
        with pytest.raises(UsageError, match=expected):
            Manifest.open(tmp_path)


class TestNotClasses:
    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (["fold1/{a,b}", "fold2/{a,b}"], r"fold1 and fold2 are named like cross-validation folds.*with a column fold"),
            (["Fold_0", "Fold_1", "Fold_2"], r"cross-validation folds"),
            (["{1,2,3,4,5}/yes", "{1,2,3,4,5}/no"], r"1, 2, 3, 4 and 1 more hold the same folders no and yes"),
            (["CT/{Healthy,Tumor}", "MRI/{Healthy,Tumor}"], r"CT and MRI hold the same folders Healthy and Tumor.*source"),
            (["Brain Tumor CT/{Healthy,Tumor}", "Brain Tumor MRI/{Healthy,Tumor}"], r"hold the same folders"),
            (["CT/Dataset/{Healthy,Tumor}", "MRI/Dataset/{Healthy,Tumor}"], r"hold the same folders"),
            (["original/{0,1}", "augmented/{0,1}"], r"hold the same folders 0 and 1.*either of the two levels"),
            (
                ["Augmented Alzheimer/{MildDemented,NonDemented}", "Original/{MildDemented,NonDemented}"],
                r"hold the same folders",
            ),
            (
                ["Organised/{Normal,Stroke}", "Stroke_classification/{Normal,Stroke}"],
                r"hold the same folders Normal and Stroke",
            ),
            (["cohort_a/yes", "cohort_b/no"], r"cohort_a and cohort_b hold the folders no and yes, so either"),
            (["site_a/{glioma,meningioma,no}", "site_b/{glioma,no}"], r"hold the same folders glioma and no"),
            (
                ["archive/{train,test}/yes", "archive/{train,test}/no", "archive (1)/train/{yes,no}"],
                r"hold the same folders no and",
            ),
            (
                ["train_{yes,no}", "test_{yes,no}"],
                r"test_no, test_yes, train_no and train_yes hold a split and a class.*train/yes",
            ),
            (["{Healthy,Tumor}Train", "{Healthy,Tumor}Val"], r"hold a split and a class"),
        ],
    )
    def test_folds_and_sources_are_refused(self, tmp_path: Path, folders: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(classes(tmp_path, *folders))

    @pytest.mark.parametrize(
        "folders",
        [
            ["{Healthy,Tumor}/axial", "{Healthy,Tumor}/coronal"],
            ["{ct,mr}/P1", "{ct,mr}/P2"],
            ["{yes,no}/0", "{yes,no}/1"],
            ["{0,1}/1", "{0,1}/2", "{0,1}/3"],
        ],
    )
    def test_folders_in_classes_are_fine(self, tmp_path: Path, folders: list[str]) -> None:
        assert len(read(classes(tmp_path, *folders))[0]) == 2

    @pytest.mark.parametrize(
        "names",
        [
            *(
                [f"P{i:03d}" for i in range(1, 81)],
                ["patient_1", "patient_2"],
                ["sub-01", "sub-02", "sub-03"],
                ["0001", "0002"],
            ),
            *([f"TCGA_CS_{i}_1996" for i in (4941, 4942)], [f"BraTS20_Training_{i:03d}" for i in (1, 2)], ["Case 1", "Case 2"]),
            [f"{label}_{i:02d}" for i in range(1, 6) for label in ("Healthy", "Tumor")],
            *([chr(97 + i) * 3 for i in range(21)], [str(i) for i in range(12)], [f"X{i}Z" for i in range(21)]),
        ],
    )
    def test_patients_are_refused(self, tmp_path: Path, names: list[str]) -> None:
        classes(tmp_path, *names)
        with pytest.raises(UsageError, match=rf"The {len(names)} folders in .* look like patients.*column.* patient_id"):
            Manifest.open(tmp_path)

    @pytest.mark.parametrize(
        "names",
        [
            ["class01", "class02"],
            ["Class_01", "Class_02", "Class_03"],
            ["grade-01", "grade-02"],
            ["label 10", "label 11"],
            [f"type{i:02}" for i in range(25)],
        ],
    )
    def test_numbered_classes_are_no_patients(self, tmp_path: Path, names: list[str]) -> None:
        found, notes = read(classes(tmp_path, *names))
        assert sorted(label for label, _ in found) == sorted(names)
        assert len(notes) == 1

    @pytest.mark.parametrize(
        ("folders", "shown"),
        [
            (["hospital_{a,b}"], "hospital_a and hospital_b"),
            (["day{1,2}"], "day1 and day2"),
            (["{CT,MR}"], "CT and MR"),
            (["train/scanner_{1,2}", "test/scanner_{1,2}"], "scanner_1 and scanner_2"),
            (["site_{1,2}/train", "site_{1,2}/test"], "site_1 and site_2"),
            (["{0,1,2,3,4,5}"], "0, 1, 2, 3 and 2 more"),
        ],
    )
    def test_classes_that_name_no_finding_are_noted(self, tmp_path: Path, folders: list[str], shown: str) -> None:
        assert read(classes(tmp_path, *folders))[1] == (f"No folder is named like a finding; the classes are {shown}",)

    @pytest.mark.parametrize(
        ("folders", "shown"),
        [
            (["{Healthy,Tumor,augmented}"], "augmented is a class although its folder is"),
            (["{Healthy,Tumor,_old,New folder}"], "New folder and _old are classes although their folders are"),
            (["train/{glioma,meningioma,raw}", "test/{glioma,meningioma,raw}"], "raw is a class although its folder is"),
            (["Healthy/{train,test}", "Tumor/{train,test}", "done/{train,test}"], "done is a class although its folder is"),
            (["{glioma,meningioma,no_tumor,other}"], ""),
            (["{Ependymoma,Papilloma,Carcinomas,Normal}"], ""),
            (["{Healthy,raw}"], ""),
        ],
    )
    def test_a_folder_beside_the_classes_is_noted(self, tmp_path: Path, folders: list[str], shown: str) -> None:
        notes = [note for note in read(classes(tmp_path, *folders))[1] if "finding" in note]
        assert [note.startswith(f"{shown} not named like a finding; the classes are") for note in notes] == [True] * bool(shown)

    @pytest.mark.parametrize("folders", [["{yes,no}"], ["tumor", "other"], ["train/{glioma,x}", "test/{glioma,x}"]])
    def test_classes_that_name_a_finding_need_no_note(self, tmp_path: Path, folders: list[str]) -> None:
        assert read(classes(tmp_path, *folders))[1] == ()

    def test_many_classes_with_many_images_are_fine(self, tmp_path: Path) -> None:
        classes(tmp_path, *(f"{chr(97 + i)} T1" for i in range(22)), n=12)
        assert len(Manifest.open(tmp_path).labels) == 22

    @pytest.mark.parametrize(
        "name", ["runs", "pred", "Results", "weights", "annotations", "unlabeled", "lightning_logs", "model"]
    )
    def test_folders_of_results_are_skipped_and_named(self, tmp_path: Path, name: str) -> None:
        classes(tmp_path, "{yes,no}", name)
        put(tmp_path, "logs/x.txt", "1.png", "2.png")
        counts, notes = read(tmp_path)
        assert counts == {("yes", None): 3, ("no", None): 3}
        assert notes[1:] == (
            f"{name} is no class and was skipped (3 images)",
            "2 images beside the class folders were skipped, such as 1.png",
        )

    def test_a_table_that_is_not_used_is_named(self, tmp_path: Path) -> None:
        put(classes(tmp_path, "{a,b}"), "patients.csv")
        assert read(tmp_path)[1][1] == (
            "The table patients.csv is not used; give it as DATA to use it instead of the class folders"
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "is empty"),
        ((".DS_Store",), "is empty"),
        (("1.png", "2.png"), "no class folders and no manifest.csv"),
        (("runs/1.png", "logs/2.png"), "no class folders and no manifest.csv; logs and runs cannot be classes"),
        (
            ("images/1.png", "images/2.png", "labels.csv"),
            r"one folder with images, 'images', and the table labels.csv.*Give .*csv",
        ),
        (
            ("1.png", "labels.tsv"),
            r"no class folders and no manifest.csv, but the table labels.tsv.*Give .*labels\.tsv as DATA",
        ),
        (("train/1.png", "train.csv", "test/1.png"), r"named like a split but .*Give .*/train\.csv as DATA"),
        (("a/1.png", "a/2.png"), "only the class 'a'"),
        (("a/1.png", "a/2.png", "b/1.png"), "class 'b' has only one case"),
        (("a/1.png", "a/2.png", "b/.keep"), "class folder 'b' .* has no images"),
        (("a/1.png", "b/2.png", "c/notes.txt"), "class folder 'c' .* has no images"),
        (("Tumor/1.png", "Tumor/2.png", "tumor/1.png", "tumor/2.png"), "'Tumor' .*and 'tumor'"),
        (("a/1.png", "a/2.png", "a /1.png", "a /2.png"), "same name apart from spaces"),
        (("train/1.png", "test/a/1.png"), "named like a split but has no class folders"),
    ],
)
def test_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Manifest.open(put(tmp_path, *names))
    assert all((caught.value.given, caught.value.allowed, caught.value.next_step))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist\. DATA is a folder of class folders"):
        Manifest.open(tmp_path / "nowhere")


def test_every_word_for_a_split_names_a_split_folder() -> None:
    assert {name: _split_of(f"{name}_set") for name in SPLIT_NAMES} == SPLIT_NAMES
