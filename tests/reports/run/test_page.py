"""The run report: complete, self-contained, safe, and with the numbers of the run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reslink.reports.run.page import evaluation_report, run_report

HOSTILE = "<script>alert('x')</script>"


VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Collects tags, addresses, ids, text and images of a page, and checks that tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "data", "srcset", "background"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def read(page: Path) -> tuple[str, Reader]:
    text = page.read_text(encoding="utf-8")
    return text, Reader(text)


def test_the_page_is_self_contained(make_run):
    page = run_report(make_run())
    text, reader = read(page)
    assert page.name == "report.html"
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(reader.tags)
    assert not reader.handlers
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text).replace("http-equiv", "")
    assert "@import" not in text
    assert all(match.startswith("#") for match in re.findall(r"url\((?!#)?[\"']?([^)\"']*)", text))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_every_internal_link_has_a_target(make_run):
    text, reader = read(run_report(make_run()))
    assert len(reader.ids) == len(set(reader.ids))
    inside = [address[1:] for address in reader.addresses if address.startswith("#")]
    inside += re.findall(r"url\(#([^)]+)\)", text)
    assert inside
    assert set(inside) <= set(reader.ids)


def test_the_page_has_the_numbers_of_the_run(make_run):
    run = make_run()
    text, reader = read(run_report(run))
    evaluation = json.loads((run / "evaluation.json").read_text())
    for name in ("auroc", "accuracy", "sensitivity", "specificity", "ppv", "f1"):
        estimate = evaluation["metrics"][name]
        assert f"{estimate['estimate']:.3f}" in reader.text
        assert f"{estimate['ci_low']:.3f} to {estimate['ci_high']:.3f}" in reader.text
    for row in evaluation["confusion_matrix"]["counts"]:
        for count in row:
            assert f"<b>{count}</b>" in text
    assert f"AUROC {evaluation['metrics']['auroc']['estimate']:.3f}" in text
    for text_part in (
        "Sensitivity (recall)",
        "PPV (precision)",
        "0.812",
        "0.700 to 0.900",
        "Grad-CAM",
        "ab" * 32,
        "model.variant",
        "reslink_small",
        "0.7, 0.15, 0.15",
        "2.13.0",
        "CC BY 4.0",
        "80 images in 40 groups",
        "No group is in more than one split",
        "The loss of validation rises",
        "Use more augmentation",
        "91.2",
        "rank correlation 0.02",
        "Measured on 60 cases that were not used for training",
    ):
        assert text_part in reader.text, text_part
    assert reader.text.count("Use more augmentation") == 1
    assert reader.text.count("Research use only – not for diagnosis") == 2


def change_evaluation(run: Path, **changes: object) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | changes))


def test_coverage_and_silent_errors_over_all_cases_are_beside_the_metrics(make_run):
    run = make_run()
    note = {"note": "The bundle answers every case", "prediction_sets": None, "n_out_of_distribution": None}
    change_evaluation(run, selective=note)
    _, reader = read(run_report(run))
    assert "All 60 cases:" in reader.text
    assert "The bundle answers every case." in reader.text
    share = {"estimate": 0.43219, "ci_low": 0.2, "ci_high": 0.6, "method": "x", "n": 60}
    answers = {"coverage": share, "answered_accuracy": share | {"n": 41}, "silent_errors": share}
    change_evaluation(run, selective=note | answers | {"n_out_of_distribution": 19, "n_covered": 41})
    text, reader = read(run_report(run))
    assert "All 60 cases, abstentions included:" in reader.text
    assert "With abstention, 41 of 60 cases are answered:" in reader.text
    for name in ("Coverage (share answered)", "Accuracy of the answered cases", "Silent errors (wrong and answered)"):
        assert f"<h3>{name}</h3>" in text
    assert reader.text.count("0.432") == 3


def test_cases_that_are_not_evaluated_are_listed_by_reason(make_run):
    run = make_run()
    change_evaluation(run, refused={"Doe/a.png": "the file is MR", "Doe/b.png": "the file is MR"}, n_refused=2)
    text, reader = read(run_report(run))
    assert "2 more are in no metric" in reader.text
    assert '<span class="note">The file is MR</span></th><td class="n">2</td><td class="soft">a.png, b.png</td>' in text
    assert "Doe" not in text


def test_facts_are_neutral_and_cautions_are_not(make_run):
    run = make_run()
    leakage = {"status": "excluded", "message": "2 of 62 cases were excluded"}
    change_evaluation(run, data_notes=["Data sets: a, b"], usage_notes=["Not for tumors."], leakage=leakage)
    text = run_report(run).read_text()
    assert '<p class="neutral"><strong>Data:</strong> Data sets: a, b.</p>' in text
    assert '<p class="neutral"><strong>Leaked cases excluded:</strong>' in text
    assert '<p class="caution"><strong>Usage note:</strong> Not for tumors.</p>' in text
    change_evaluation(run, leakage=leakage | {"status": "allowed"})
    assert '<p class="caution"><strong>Leakage:</strong>' in run_report(run).read_text()


def test_an_evaluation_is_titled_by_model_and_data(make_run):
    run = make_run()
    (run / "bundle" / "bundle.json").unlink()
    change_evaluation(run, bundle="ct", data="clinic")
    assert "<h1>ct on clinic</h1>" in evaluation_report(run).read_text()


def test_every_picture_has_an_alternative_text(make_run):
    text, reader = read(run_report(make_run()))
    assert len(reader.images) == 2
    assert all(image["alt"] for image in reader.images)
    charts = re.findall(r"<svg [^>]*>", text)
    assert len(charts) == 6
    assert all('role="img"' in chart and "aria-label=" in chart for chart in charts)


def test_names_cannot_inject_markup(make_run):
    names = ("$a_{1}$ & 'b' \"c\"", HOSTILE)
    run = make_run(names, name="<img src=x onerror=alert(1)>")
    for file in ("config.yaml", "environment.json"):
        (run / file).write_text(json.dumps({HOSTILE: {"a": HOSTILE, "b": [HOSTILE]}}))
    finding = {"kind": "finding", "code": HOSTILE, "message": HOSTILE, "advice": HOSTILE, "epoch": HOSTILE}
    (run / "metrics.jsonl").write_text(json.dumps(finding) + "\n")
    text, reader = read(run_report(run))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert not reader.handlers
    assert {image["src"][:5] for image in reader.images} == {"data:"}
    assert HOSTILE in reader.text
    assert "$a_{1}$" in reader.text  # taken literally, also in the charts


def test_a_group_in_two_splits_is_an_alarm(make_run):
    run = make_run()
    rows = (run / "splits.csv").read_text().splitlines()
    rows[1] = rows[1].replace("train", "test")
    (run / "splits.csv").write_text("\n".join(rows))
    _, reader = read(run_report(run))
    assert "1 of 40 groups (patients or duplicate groups) is in more than one split" in reader.text
    assert "No group is" not in reader.text


@pytest.mark.parametrize(
    "missing",
    [
        "config.yaml",
        "environment.json",
        "splits.csv",
        "metrics.jsonl",
        "evaluation.json",
        "predictions.csv",
        "bundle/bundle.json",
        "figures/gallery.json",
        "figures/sanity.json",
    ],
)
def test_missing_files_are_allowed(make_run, missing):
    run = make_run()
    (run / missing).unlink()
    read(run_report(run))


def test_an_empty_run_has_a_page(tmp_path):
    _, reader = read(run_report(tmp_path))
    assert tmp_path.name in reader.text


def test_more_than_two_classes(make_run):
    _, reader = read(run_report(make_run(("glioma", "meningioma", "no_tumor", "pituitary"), n=120)))
    assert "All classes" in reader.text
    assert "Positive class" not in reader.text
    assert reader.text.count("AUROC 0.") >= 4


def test_undefined_metrics_are_dashes(make_run):
    run = make_run()
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["metrics"]["auroc"] = {
        "estimate": None,
        "ci_low": None,
        "ci_high": None,
        "method": "undefined: one class",
        "n": 0,
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    _, reader = read(run_report(run))
    assert "undefined: one class" in reader.text
    assert "nan" not in reader.text.lower()
    assert "None" not in reader.text


def test_an_evaluation_report(make_run):
    run = make_run()
    for file in ("config.yaml", "metrics.jsonl", "splits.csv"):
        (run / file).unlink()
    _, reader = read(evaluation_report(run))
    assert "Evaluation report" in reader.text
    assert "Measured on 60 cases." in reader.text
    assert "not used for training" not in reader.text


def test_the_same_run_gives_the_same_bytes(make_run):
    run = make_run()
    first = run_report(run).read_bytes()
    assert run_report(run).read_bytes() == first


def test_charts_are_also_files(make_run):
    run = make_run()
    run_report(run)
    written = {path.name for path in (run / "figures").glob("*.svg")}
    assert written == {"loss.svg", "score.svg", "roc.svg", "precision_recall.svg", "calibration.svg", "risk_coverage.svg"}
    for path in (run / "figures").glob("*.svg"):
        text = path.read_text()
        assert "#0a0b" not in text
        assert "var(--" not in text
