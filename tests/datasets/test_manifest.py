"""Data sets as people have them, good and bad."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from pathlib import Path

import pytest
from data_files import FOUR, put, table
from hypothesis import HealthCheck, given, settings, strategies

from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.labels import Labels


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


class TestSpellings:
    """Labels and patients that mean the same are the same or are refused, in tables and folders."""

    def data(self, root: Path, kind: str, labels: list[str], patients: list[str] | None = None) -> Path:
        """24 images with labels and patients in turn, as a table or as class folders."""
        names = [f"{i:02}.png" for i in range(24)]
        if kind == "folders":
            return put(root, *(f"{labels[i % len(labels)]}/{name}" for i, name in enumerate(names)))
        patients = patients or ["P{i}"]
        lines = [f"{n},{labels[i % len(labels)]},{patients[i % len(patients)].format(i=i)}" for i, n in enumerate(names)]
        return table(put(root, *names), "\n".join(["path,label,patient_id", *lines]))

    @pytest.mark.parametrize("kind", ["table", "folders"])
    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            (["L\u00e9sion", "Healthy", "Le\u0301sion"], ("Healthy", "L\u00e9sion")),
            (["Tumor", "Healthy", "Tu\u200bmor", "\ufeffHealthy"], ("Healthy", "Tumor")),
            (["no tumor", "tumor", "no\u00a0tumor", "no  tumor"], ("no tumor", "tumor")),
        ],
    )
    def test_invisible_differences_make_no_class(
        self, tmp_path: Path, kind: str, labels: list[str], names: tuple[str, ...]
    ) -> None:
        assert Manifest.open(self.data(tmp_path, kind, labels)).labels.names == names

    @pytest.mark.parametrize("kind", ["table", "folders"])
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["0", "1", "1.0"], r"labels '1' \(8 cases\) and '1.0' \(8 cases\) differ only in case, spacing or number format"),
            (["Tumor", "x", "tumor"], "'Tumor' .* and 'tumor'"),
            (["No Tumor", "x", "no_tumor"], "'No Tumor' .* and 'no_tumor'"),
            (["01", "2", "1"], "'0?1' .* and '0?1'"),
        ],
    )
    def test_spellings_of_one_class_are_refused(self, tmp_path: Path, kind: str, labels: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(self.data(tmp_path, kind, labels))

    @pytest.mark.parametrize("name", ["nan", "NA", "null", "None", "-"])
    def test_a_class_folder_of_missing_labels(self, tmp_path: Path, name: str) -> None:
        data = self.data(tmp_path, "folders", ["Tumor", name])
        with pytest.raises(UsageError, match=f"The class folder of {name}/01.png is named '{name}', which means"):
            Manifest.open(data)
        assert Manifest.open(data, class_order=[name, "Tumor"]).labels.positive == "Tumor"

    @pytest.mark.parametrize("kind", ["table", "folders"])
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["0", "1", "True", "False"], r"labels '0' \(6 cases\) and 'False' \(6 cases\) are two ways to write labels"),
            (["Healthy", "Tumor", "Tumour"], r"classes 'Tumor' \(8 cases\) and 'Tumour' \(8 cases\) look like one class"),
        ],
    )
    def test_one_class_in_two_ways(
        self, tmp_path: Path, kind: str, labels: list[str], message: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = self.data(tmp_path, kind, labels)
        with pytest.raises(UsageError, match=message + r".*Correct the label.*data.class_order"):
            Manifest.open(data)
        assert Manifest.open(data, class_order=labels).labels.names == tuple(labels)
        assert not re.search(message, caplog.text)
        assert len(Manifest.open(data, for_training=False).labels) == len(labels)
        assert re.search(message, caplog.text)

    @pytest.mark.parametrize("kind", ["table", "folders"])
    def test_a_rare_class_near_another_one(self, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        data = self.data(tmp_path, kind, ["Healthy", "Tumor"] * 11 + ["Helthy", "Tumor"])
        message = r"The name of the class 'Helthy' \(1 case\) is close to that of 'Healthy' \(11 cases\)"
        with pytest.raises(UsageError, match=message + r".*Correct the label.*class_order=\[Healthy, Helthy, Tumor\]"):
            Manifest.open(data)
        assert len(Manifest.open(data, for_training=False).labels) == 3
        assert "'Helthy' (1 case) is close to that of 'Healthy'" in caplog.text

    def test_confirmed_classes_may_be_near(self, tmp_path: Path) -> None:
        data = self.data(tmp_path, "table", ["Healthy", "Tumor"] * 10 + ["Tumour"] * 2)
        assert len(Manifest.open(data, class_order=["Healthy", "Tumor", "Tumour"]).labels) == 3

    @pytest.mark.parametrize(
        ("patients", "message"),
        [
            (["P{i}", "p0"], r"patients 'P0' \(1 case\) and 'p0' \(12 cases\) differ only in case"),
            (["7", "8", "7.0"], r"patients '7' \(8 cases\) and '7.0'"),
            (["sub-01", "x", "sub_1"], "patients 'sub-01' .* and 'sub_1'"),
            (["1", "1.0", "2", "2.0"], r"'1' \(6 cases\) and '1.0' \(6 cases\) .*\(as do 1 other pairs\)"),
        ],
    )
    def test_spellings_of_one_patient_are_refused(self, tmp_path: Path, patients: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Manifest.open(self.data(tmp_path, "table", ["a", "b"], patients))

    def test_invisible_differences_make_no_patient(self, tmp_path: Path) -> None:
        manifest = Manifest.open(self.data(tmp_path, "table", ["a", "b"], ["Ren\u00e9", "Rene\u0301", "x", "\u200bx\u00a0"]))
        assert {case.patient_id for case in manifest.cases} == {"Ren\u00e9", "x"}

    def test_class_names_of_a_model_keep_their_spelling(self, tmp_path: Path) -> None:
        manifest = Manifest.open(self.data(tmp_path, "table", ["a", "L\u00e9sion"]), labels=Labels(("a", "Le\u0301sion")))
        assert manifest.targets == [0, 1] * 12

    def test_a_stated_order_in_another_form(self, tmp_path: Path) -> None:
        manifest = Manifest.open(self.data(tmp_path, "table", ["a", "L\u00e9sion"]), class_order=["Le\u0301sion", "a"])
        assert manifest.labels.names == ("L\u00e9sion", "a")


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("meaning"), *(f"images/dé{i % 3}/{i:02}.png" for i in range(12)), "tables/x")


class TestMeaning:
    """A manifest's meaning does not depend on how it is written."""

    HEADERS = (
        ("path", "file", "Image Path", "FileName"),
        ("label", "Class", "diagnosis", "TARGET"),
        ("patient_id", "Subject-ID", "PatientID", "mrn"),
        ("source", "Hospital", "site"),
        ("split", "Set", "partition"),
    )

    @given(drawn=strategies.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_in_any_writing(self, share: Path, drawn: strategies.DataObject) -> None:
        folder = share / drawn.draw(strategies.sampled_from([".", "tables", "images"]))
        headers = [drawn.draw(strategies.sampled_from(spellings)) for spellings in self.HEADERS]
        order = drawn.draw(strategies.permutations(range(5)))
        form = drawn.draw(strategies.sampled_from(["NFC", "NFD"]))
        separator = drawn.draw(strategies.sampled_from(",;\t|"))
        end = drawn.draw(strategies.sampled_from(["\n", "\r\n", "\r"]))
        start = drawn.draw(strategies.sampled_from(["", f"sep={separator}{end}", end * 2]))
        rows = drawn.draw(strategies.permutations(range(12)))
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=separator, lineterminator=end)
        writer.writerow([headers[i] for i in order])
        for i in rows:
            style = drawn.draw(strategies.sampled_from(["relative", "dots", "absolute", "uri", "backslash", "plain uri"]))
            cells = [self.spelled(share, i, style), f"Klasse ä{i % 2}", f"Pé{i // 3}", f"Ort {i % 2}", "train"]
            cells[1] = drawn.draw(strategies.sampled_from([cells[1], f" {cells[1]}\u200b", cells[1].replace(" ", "\u00a0")]))
            writer.writerow([unicodedata.normalize(form, cells[i]) for i in order])
        encoding = drawn.draw(strategies.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
        path = folder / "cohort.csv"
        path.write_bytes((start + stream.getvalue()).encode(encoding))
        manifest = Manifest.open(path, root=share / "tables")
        path.unlink()
        cases = sorted(manifest.cases, key=lambda case: case.path.name)
        assert [(case.name, case.label, case.patient_id, case.source, case.split) for case in cases] == [
            (f"dé{i % 3}/{i:02}.png", f"Klasse ä{i % 2}", f"Pé{i // 3}", f"Ort {i % 2}", "train") for i in range(12)
        ]
        assert [case.path for case in cases] == [share / f"images/dé{i % 3}/{i:02}.png" for i in range(12)]
        assert manifest.digest() == self.digest(share)
        assert set(manifest.column_roles.items()) == set(
            zip(("path", "label", "patient_id", "source", "split"), headers, strict=True)
        )

    def spelled(self, share: Path, i: int, style: str) -> str:
        path = share / f"images/dé{i % 3}/{i:02}.png"
        relative = f"../images/dé{i % 3}/{i:02}.png"
        return {
            "relative": relative,
            "dots": f"./../tables/.././images/dé{i % 3}//{i:02}.png",
            "absolute": str(path),
            "uri": path.as_uri(),
            "plain uri": f"FILE://localhost{path}",
            "backslash": relative.replace("/", "\\"),
        }[style]

    def digest(self, share: Path) -> str:
        """Returns the digest of the data set in the plainest writing."""
        lines = [f"../images/dé{i % 3}/{i:02}.png,Klasse ä{i % 2},Pé{i // 3},train" for i in range(12)]
        path = table(share / "tables", "\n".join(["path,label,patient_id,split", *lines]), "plain.csv")
        return Manifest.open(path).digest()


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


@pytest.mark.parametrize("data", [[{"path": "a.png", "label": "a"}], 7, None])
def test_a_data_set_that_is_no_path(data: object) -> None:
    with pytest.raises(UsageError, match=rf"The data set is a {type(data).__name__}.*Save a DataFrame with to_csv"):
        Manifest.open(data)


def test_a_sequence_is_added_where_the_table_states_none(tmp_path: Path) -> None:
    stated = [("a", "x", "t2w"), ("b", "x", ""), ("c", "y", "n/a"), ("d", "y", "T2-FLAIR")]
    rows = ["path,label,sequence", *(f"{name}.png,{label},{sequence}" for name, label, sequence in stated)]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    for name, *_ in stated:
        (tmp_path / f"{name}.png").write_bytes(b"x")
    manifest = Manifest.open(tmp_path).with_sequence("t1ce")
    assert [case.sequence for case in manifest.cases] == ["T2", "T1C+", "T1C+", "FLAIR"]
    with pytest.raises(UsageError, match="The sequence is empty"):
        manifest.with_sequence(" ")
