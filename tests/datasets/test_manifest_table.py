"""Tables of images as people have them: columns, paths and missing values in any spelling."""

from __future__ import annotations

import codecs
import logging
import os
from pathlib import Path

import pytest
from data_files import FOUR, put, table

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError


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

        def forbidden(path: Path, *_args: object, **_options: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", forbidden)
        with pytest.raises(UsageError, match=r"manifest\.csv cannot be read: Permission denied.*DATA is a folder.*permissions"):
            Manifest.open(images)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no column 'path'.*; it is empty"),
            ("where,label\na1.png,a\n", "no column 'path'.*Add the column 'path', or name it with --columns path=COLUMN"),
            ("path,lable\na1.png,a\n", "no column 'label'.*Did you mean 'lable'. Rename it to 'label', or use --columns"),
            ("path,label,label\na1.png,a,b\n", "two columns 'label'"),
            ("path,label\n", "no rows below its header"),
            ("path,label\na1.png,a\na2.png,a\n", "only the class 'a'"),
            ("path,label\na1.png,a\na2.png,a\nb1.png,b\n", "class 'b' has only one case"),
            (
                "path,label\na1.png,Tumor\na2.png,Tumor\nb1.png,tumor\nb2.png,tumor\n",
                r"labels 'Tumor' \(2 cases\) and 'tumor' \(2 cases\) differ only in case",
            ),
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
            ("../secret.png,a", None),
            ("m/../../secret.png,a", None),
            ("..\\secret.png,a", None),
            ("/etc/passwd,a", None),
            ("../nowhere.png,a", "Row 6 .*'../nowhere.png', which does not exist. Paths are absolute, or relative to .*--root"),
            ("C:\\data\\a.png,a", r"Row 6 .* a path on a Windows drive or server.*Remove the drive .*--root"),
            ("//server/share/a.png,a", "Row 6 .*which does not exist"),
            ("/dev/null,a", "Row 6 .*'/dev/null', which is not a file"),
            ("m/b1.png,a,,nowhere.png,", "Row 6 .*'nowhere.png', which does not exist"),
            ("m/b1.png,a,,,tset", "Row 6 .*the split 'tset'.*Did you mean 'test'"),
            ("m,a", "Row 6 .*names the folder 'm'.*unless each series has one label"),
            ("m/b1.png\0,a", r"Row 6 .*'m/b1.png\\x00', which does not exist"),
            ("m/b1.png,nan", r"Row 6 of manifest.csv has no 'label' \(the cell is 'nan'\)"),
            ("nan,a", "Row 6 of manifest.csv has no 'path'"),
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


def rows(header: str, separator: str = ",") -> str:
    """Twelve images of four patients in two classes, three images a patient, under some header."""
    lines = [separator.join((f"{'ab'[i % 2]}{i // 2}.png", "ab"[i % 2], f"P{i // 3}")) for i in range(12)]
    return "\n".join([header, *lines])


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    return put(tmp_path, *(f"{'ab'[i % 2]}{i // 2}.png" for i in range(12)))


class TestColumns:
    @pytest.mark.parametrize(
        "header",
        [
            "patient",
            "PatientID",
            "subject",
            "Patient Number",
            "patient-id",
            "SUBJECT_ID",
            "case_id",
            "MRN",
            "Participant.ID",
            "patient nr",
            "Case",
            "pid",
            "\ufeffPatient\u200b ID",
        ],
    )
    def test_the_patient_column_in_any_spelling(self, twelve: Path, header: str, caplog: pytest.LogCaptureFixture) -> None:
        manifest = Manifest.open(table(twelve, rows(f"path,label,{header}")))
        assert [case.patient_id for case in manifest.cases] == [f"P{i // 3}" for i in range(12)]
        [message] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        shown = header.replace("\ufeff", "").replace("\u200b", "")
        assert f"{shown!r} is used as patient_id" in message
        assert manifest.column_roles == {"path": "path", "label": "label", "patient_id": shown}

    @pytest.mark.parametrize("path", ["path", "file", "filename", "image", "File Name", "image_path", "ImagePath", "img"])
    @pytest.mark.parametrize("label", ["label", "class", "target", "Diagnosis", "y", "Category", "ground truth"])
    def test_path_and_label_in_any_spelling(self, twelve: Path, path: str, label: str) -> None:
        manifest = Manifest.open(table(twelve, rows(f"{path},{label},patient_id")))
        assert [case.label for case in manifest.cases] == ["a", "b"] * 6
        assert manifest.columns == ("path", "label", "patient_id")

    @pytest.mark.parametrize("header", ["split", "fold", "Set", "subset", "partition"])
    def test_the_split_by_its_words(self, twelve: Path, header: str) -> None:
        text = rows("path,label,patient_id").splitlines()
        lines = [f"{text[0]},{header}", *(f"{line},{('Train', 'VAL', 'testing')[i % 3]}" for i, line in enumerate(text[1:]))]
        manifest = Manifest.open(table(twelve, "\n".join(lines)))
        assert [case.split for case in manifest.cases[:3]] == ["train", "validation", "test"]

    def test_the_number_of_a_fold_is_no_split(self, twelve: Path) -> None:
        text = rows("path,label,patient_id").splitlines()
        lines = [f"{text[0]},fold,set", *(f"{line},{i % 3},x" for i, line in enumerate(text[1:]))]
        manifest = Manifest.open(table(twelve, "\n".join(lines)))
        assert {case.split for case in manifest.cases} == {None}
        assert manifest.cases[2].extra == {"fold": "2", "set": "x"}
        assert "'set' of manifest.csv is not used as split: it holds 'x'" in "\n".join(manifest.notes)

    @pytest.mark.parametrize(("cell", "unit"), [("HU", "HU"), ("mr", "MR"), ("grey", "gray"), ("Gray", "gray"), ("", None)])
    def test_source_and_unit(self, twelve: Path, cell: str, unit: str | None) -> None:
        text = rows("path,label,patient_id").splitlines()
        lines = [f"{text[0]},Hospital,unit", *(f"{line},north,{'mr' if i else cell}" for i, line in enumerate(text[1:]))]
        manifest = Manifest.open(table(twelve, "\n".join(lines)))
        assert (manifest.cases[0].source, manifest.cases[0].unit) == ("north", unit)
        assert manifest.cases[0].extra["Hospital"] == "north"

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("file,image,label", "columns 'file' and 'image', and each could be path.*--columns path=file"),
            ("path,class,diagnosis", "columns 'class' and 'diagnosis', and each could be label"),
        ],
    )
    def test_two_candidates_are_both_named(self, twelve: Path, header: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(table(twelve, rows(header)))

    def two_patients(self, folder: Path, header: str, other: str) -> Path:
        text = rows("path,label,x").splitlines()
        lines = [f"path,label,{header}", *(f"{line},{other.format(i=i, j=i // 6)}" for i, line in enumerate(text[1:]))]
        return table(folder, "\n".join(lines))

    @pytest.mark.parametrize(
        ("header", "other"),
        [("patient,subject", "S{i}"), ("patient_id,subject", "S{j}"), ("subject,MRN", "{i}"), ("patient_id,case_id", "all")],
    )
    def test_two_columns_of_patients_are_not_dropped_silently(self, twelve: Path, header: str, other: str) -> None:
        first, second = header.split(",")
        with pytest.raises(UsageError, match=f"columns '{first}' and '{second}', and each could be patient_id"):
            Manifest.open(self.two_patients(twelve, header, other))

    def test_a_finer_column_than_patient_id_is_named(self, twelve: Path) -> None:
        manifest = Manifest.open(self.two_patients(twelve, "patient_id,case", "S{i}"))
        assert manifest.cases[0].patient_id == "P0"
        assert manifest.notes == (
            "'case' of manifest.csv could also be the column patient_id; 'patient_id' is used. "
            "Choose another one with --columns patient_id=case",
        )

    def test_two_columns_with_the_same_cells_are_one(self, twelve: Path) -> None:
        text = rows("path,label,x").splitlines()
        lines = ["path,label,patient,subject", *(f"{line},{line.split(',')[2]}" for line in text[1:])]
        assert Manifest.open(table(twelve, "\n".join(lines))).cases[3].patient_id == "P1"

    def test_an_empty_patient_id_gives_way(self, twelve: Path) -> None:
        text = rows("path,label,subject").splitlines()
        lines = [f"{text[0]},patient_id", *(f"{line}," for line in text[1:])]
        assert Manifest.open(table(twelve, "\n".join(lines))).cases[3].patient_id == "P1"

    @pytest.mark.parametrize(
        "columns", [["patient=who, really"], ["label=label", "patient id=WHO,  REALLY"], {"subject": "who, really"}]
    )
    def test_the_user_decides(self, twelve: Path, columns: object) -> None:
        path = self.two_patients(twelve, 'subject,"who, really"', "S{j}")
        if isinstance(columns, list):
            columns = [f'"{column}"' if "," in column else column for column in columns]
        manifest = Manifest.open(path, columns=columns)  # type: ignore[arg-type]
        assert [case.patient_id for case in manifest.cases] == ["S0"] * 6 + ["S1"] * 6
        assert manifest.cases[0].extra == {"subject": "P0"}

    @pytest.mark.parametrize(
        ("cells", "note"),
        [
            (["1.23457E+12", "1.23458E+12"], "holds 1.23457E+12, a number that a spreadsheet shortened"),
            (["1,2E+09"], "holds 1,2E+09, a number that a spreadsheet shortened"),
            (["x"], "names a single patient for all images"),
            (["1.5", "2.5"], None),
            (["E+05", "P1"], None),
        ],
    )
    def test_patients_that_may_be_several(self, twelve: Path, cells: list[str], note: str | None) -> None:
        text = rows("path;label", ";").splitlines()
        lines = ["path;label;MRN"] + [f"{line[: line.rindex(';')]};{cells[i % len(cells)]}" for i, line in enumerate(text[1:])]
        notes = Manifest.open(table(twelve, "\n".join(lines))).notes
        assert notes == (() if note is None else (notes[0],))
        assert note is None or f"The column 'MRN' of manifest.csv {note}" in notes[0]

    def test_repeated_rows_are_counted(self, images: Path) -> None:
        table(images, f"path,label\n{FOUR}{FOUR}a1.png,a\n")
        assert Manifest.open(images).notes == ("5 rows repeat other ones and are left out: each image counts once",)

    def test_a_column_that_is_no_split_can_be_left_out(self, images: Path) -> None:
        rows = [row + "," + split for row, split in zip(FOUR.split(), ("train", "train", "test", "excluded"), strict=True)]
        data = table(images, "\n".join(["path,label,subset", *rows]))
        with pytest.raises(
            UsageError, match=r"'excluded'.*Add --columns split= if the column 'subset' is no split\. Choose one"
        ):
            Manifest.open(data)
        assert {case.split for case in Manifest.open(data, columns={"split": ""}).cases} == {None}

    def test_a_data_set_in_a_folder_named_like_a_class_has_no_note(self, tmp_path: Path) -> None:
        names = [f"tumor/{i}.png" for i in range(4)]
        put(tmp_path, *names)
        text = "\n".join(
            ["path,label", *(f"{name},{label}" for name, label in zip(names, ["Tumor", "Healthy"] * 2, strict=True))]
        )
        assert Manifest.open(table(tmp_path, text)).notes == ()

    @pytest.mark.parametrize(
        ("names", "labels", "note"),
        [
            (
                ["Healthy/1.png", "Tumor/2.png"],
                ["Tumor", "Tumor"],
                "1 of 4 images have another label than their folder names, such as",
            ),
            (["x/healthy/1.png", "x/tumor_/2.png"], ["Tumor", "Healthy"], "such as x/healthy/1.png with the label 'Tumor'"),
            (
                ["Training/x/1.png", "test/x/2.png"],
                ["Tumor", "Healthy"],
                "The paths name the splits test and train, but the table",
            ),
            (["Healthy/1.png", "Tumor/2.png"], ["Healthy", "Tumor"], None),
            (["Healthy/Tumor/1.png", "Tumor/2.png"], ["Healthy", "Tumor"], None),
            (["1/1.png", "0/2.png"], ["0", "1"], None),
            (["train/1.png", "train/2.png"], ["Healthy", "Tumor"], None),
        ],
    )
    def test_folders_that_say_something_else(
        self, tmp_path: Path, names: list[str], labels: list[str], note: str | None
    ) -> None:
        classes = sorted({*labels, "Healthy"}) if "0" not in labels else ["0", "1"]
        names, labels = [*names, "m.png", "n.png"], [*labels, classes[0], classes[1]]
        put(tmp_path, *names)
        text = "\n".join(["path,label", *map(",".join, zip(names, labels, strict=True))])
        notes = Manifest.open(table(tmp_path, text), for_training=False).notes
        assert [note in sentence for sentence in notes] == ([True] if note else [])
        split = text.replace("\n", ",train\n").replace("label,train", "label,split") + ",train"
        given = Manifest.open(table(tmp_path, split), for_training=False)
        assert not any("splits" in sentence for sentence in given.notes)

    def test_none_of_the_columns_is_meant(self, twelve: Path) -> None:
        path = table(twelve, rows("path,label,patient_id"))
        manifest = Manifest.open(path, columns=["patient="])
        assert {case.patient_id for case in manifest.cases} == {None}
        assert manifest.cases[0].extra == {"given_patient_id": "P0"}

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["patient"], "has no '='.*Use --columns patient=MRN"),
            (["pateint=MRN"], "role 'pateint'.*Did you mean 'patient_id'"),
            (["patient=MNR"], "manifest.csv has no column 'MNR', which --columns gives for patient_id.*Its columns are"),
            (["patient=a,subject=b"], "gives patient_id the columns 'a' and 'b'"),
            (["label="], "no column 'label'"),
        ],
    )
    def test_a_choice_that_cannot_be_used(self, twelve: Path, columns: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(table(twelve, rows("path,label,MRN")), columns=columns)

    @pytest.mark.parametrize("option", [{"columns": ["patient=x"]}, {"root": "."}])
    def test_class_folders_have_no_columns(self, tmp_path: Path, option: dict[str, object]) -> None:
        put(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
        with pytest.raises(UsageError, match=r"--(columns|root) was given for the folder .*Give a table as DATA"):
            Manifest.open(tmp_path, **option)  # type: ignore[arg-type]


class TestMissingValues:
    @pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "null", "None", "-", " ", "\u200b", "<NA>", "#N/A"])
    def test_no_label(self, twelve: Path, word: str) -> None:
        text = rows("path,Dx,patient").replace("png,b,", f"png,{word},")
        with pytest.raises(UsageError, match=r"Row 3 of manifest\.csv has no 'Dx'.*6 rows have none.*Fill in the label"):
            Manifest.open(table(twelve, text))

    @pytest.mark.parametrize("word", ["nan", "NA", "n/a", "NULL", "none", "-", "\u00a0"])
    def test_no_patient(self, twelve: Path, word: str) -> None:
        manifest = Manifest.open(table(twelve, rows("path,label,patient").replace("P2", word)))
        assert [case.patient_id for case in manifest.cases] == ["P0"] * 3 + ["P1"] * 3 + [None] * 3 + ["P3"] * 3

    def test_no_mask_no_split_no_source(self, twelve: Path) -> None:
        text = rows("path,label,patient_id").splitlines()
        lines = [f"{text[0]},mask,split,source,unit", *(f"{line},nan,NA,-,None" for line in text[1:])]
        case = Manifest.open(table(twelve, "\n".join(lines))).cases[0]
        assert (case.mask, case.split, case.source, case.unit) == (None, None, None, None)

    def test_a_class_called_none_may_be_confirmed(self, twelve: Path) -> None:
        path = table(twelve, rows("path,label,patient_id").replace("png,b,", "png,none,"))
        assert Manifest.open(path, class_order=["none", "a"]).targets == [1, 0] * 6


class TestPaths:
    """Tables in a project folder, images elsewhere."""

    @pytest.fixture
    def share(self, tmp_path: Path) -> Path:
        return put(tmp_path / "mnt" / "share of images", *(f"{'ab'[i % 2]}/é{i:02}.png" for i in range(4)))

    def write(self, folder: Path, cells: list[str]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f'"{cell}",{"ab"[i % 2]}' for i, cell in enumerate(cells)]
        return table(folder, "\n".join(["path,label", *lines]), "cohort.csv")

    def files(self, share: Path) -> list[Path]:
        return [share / "ab"[i % 2] / f"é{i:02}.png" for i in range(4)]

    @pytest.mark.parametrize(
        "style", ["absolute", "uri", "uri host", "percent", "relative", "dots", "backslash", "mixed", "nfd"]
    )
    def test_any_style_is_the_same_data_set(self, share: Path, tmp_path: Path, style: str) -> None:
        project = tmp_path / "home" / "project"
        files = self.files(share)
        relative = [os.path.relpath(file, project) for file in files]
        cells = {
            "absolute": [str(file) for file in files],
            "uri": [f"file://{file}" for file in files],
            "uri host": [f"FILE://localhost{file}" for file in files],
            "percent": [file.as_uri() for file in files],
            "relative": relative,
            "dots": [f"./x/../{path}" for path in relative],
            "backslash": [path.replace("/", "\\") for path in relative],
            "mixed": [str(files[0]), relative[1], files[2].as_uri(), relative[3].replace("/", "\\")],
            "nfd": [str(file).replace("é", "e\u0301") for file in files],
        }[style]
        (project / "x").mkdir(parents=True)
        manifest = Manifest.open(self.write(project, cells))
        assert [case.path for case in manifest.cases] == files
        assert [case.name for case in manifest.cases] == ["a/é00.png", "b/é01.png", "a/é02.png", "b/é03.png"]

    def test_a_folder_for_relative_paths(self, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.write(tmp_path / "project", [str(file.relative_to(share.parent)) for file in self.files(share)])
        monkeypatch.setenv("HOME", str(tmp_path))
        by_root = Manifest.open(path, root=share.parent)
        assert Manifest.open(path, root="~/mnt").root == tmp_path / "mnt"
        assert [case.path for case in by_root.cases] == self.files(share)
        assert by_root.cases[0].name == "share of images/a/é00.png"
        with pytest.raises(UsageError, match=r"Row 2 of cohort.csv .*does not exist.*--root"):
            Manifest.open(path)
        with pytest.raises(UsageError, match=r"--root .*nowhere is not a folder"):
            Manifest.open(path, root=tmp_path / "nowhere")

    def test_the_home_folder(self, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(share.parent))
        cells = [f"~/{file.relative_to(share.parent)}" for file in self.files(share)]
        assert [case.path for case in Manifest.open(self.write(tmp_path / "p", cells)).cases] == self.files(share)

    @pytest.mark.parametrize("through", ["table", "images", "both"])
    def test_links(self, share: Path, tmp_path: Path, through: str) -> None:
        (tmp_path / "far" / "away").mkdir(parents=True)
        linked = tmp_path / "far" / "away" / "link"
        plain = Manifest.open(self.write(share, [str(file.relative_to(share)) for file in self.files(share)]))
        linked.symlink_to(share)
        cells = [str(linked / file.relative_to(share)) for file in self.files(share)] if through != "table" else None
        if cells:
            self.write(share, cells)
        manifest = Manifest.open((share if through == "images" else linked) / "cohort.csv")
        assert [case.name for case in manifest.cases] == [case.name for case in plain.cases]
        assert manifest.digest() == plain.digest()

    def test_the_digest_does_not_know_the_place(self, share: Path, tmp_path: Path) -> None:
        first = Manifest.open(self.write(tmp_path / "p", [str(file) for file in self.files(share)]))
        moved = tmp_path / "elsewhere" / "deep"
        moved.parent.mkdir()
        share.rename(moved)
        second = Manifest.open(self.write(tmp_path / "q", [str(file) for file in self.files(moved)]))
        assert first.root != second.root
        assert first.cases[0].name == second.cases[0].name
        files = {case.name: "0" for case in first.cases}
        assert first.digest(files) == second.digest(files)

    def test_two_files_of_one_name_have_two_names(self, tmp_path: Path) -> None:
        put(tmp_path, "x/1.png", "y/1.png", "x/2.png", "y/2.png")
        cells = [str(tmp_path / name) for name in ("x/1.png", "y/1.png", "x/2.png", "y/2.png")]
        manifest = Manifest.open(self.write(tmp_path / "p", cells))
        assert [case.name for case in manifest.cases] == ["x/1.png", "y/1.png", "x/2.png", "y/2.png"]
