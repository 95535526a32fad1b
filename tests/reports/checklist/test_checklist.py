"""Checklists: every item is there, filled from the run or marked for the author."""

from __future__ import annotations

import csv
import json

import pytest

from reslink.errors import InputError, UsageError
from reslink.reports.checklist.answers import FACTS
from reslink.reports.checklist.checklist import fill, names
from reslink.reports.checklist.evidence import read_evidence
from reslink.reports.checklist.page import review_page
from reslink.reports.run.flow_diagram import flow_of

TODO = "the author must write this"


@pytest.fixture
def run(make_run):
    return make_run(name="first")


def item(checklist, number, topic=None):
    [found] = [one for one in checklist.items if one.number == number and topic in (None, one.topic)]
    return found


def test_the_lists_hold_every_item_of_their_publication(run):
    evidence = read_evidence(run)
    claim = fill("claim", evidence)
    assert [one.number for one in claim.items] == [str(i) for i in range(1, 43)]
    tripod = {one.number.rstrip("abcdefg") for one in fill("tripod-ai", evidence).items}
    assert tripod == {str(i) for i in range(1, 28)}
    stard = {one.number.rstrip("ab") for one in fill("stard-ai", evidence).items}
    assert stard == {*(str(i) for i in range(1, 31)), "AI"}
    assert names() == ["claim", "stard-ai", "tripod-ai"]


@pytest.mark.parametrize("name", ["claim", "stard-ai", "tripod-ai"])
def test_each_item_is_filled_or_left_to_the_author(run, name):
    checklist = fill(name, read_evidence(run))
    for one in checklist.items:
        assert one.text or one.author, one
        assert (one.status == TODO) == (not one.text)
        assert (one.status == "filled") == (bool(one.text) and not one.author)
    assert sum(checklist.counts.values()) == len(checklist.items)
    assert min(checklist.counts.values()) > 0


def test_the_answers_are_those_of_the_run(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    claim = fill("claim", read_evidence(run))
    accuracy = evaluation["metrics"]["accuracy"]
    assert (
        f"accuracy {accuracy['estimate']:.3f} ({accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f})" in item(claim, "36").text
    )
    counts = evaluation["confusion_matrix"]["counts"]
    assert item(claim, "37").text.startswith(f"{counts[0][1] + counts[1][0]} of {evaluation['n']} cases are wrong")
    table = item(fill("stard-ai", read_evidence(run)), "23").text
    assert f"true Tumor called Healthy: {counts[1][0]}" in table


def test_the_page_says_what_the_audit_of_the_data_found(run, tmp_path):
    gates = [{"gate": "outside_head", "failed": True, "reason": "a model can score 0.9 without looking at the brain"}]
    (tmp_path / "audit.json").write_text(json.dumps({"images": 60, "verdict": "fail", "gates": gates, "not_done": []}))
    page = review_page(run, read_evidence(run, [tmp_path])).read_text()
    assert "The audit of 60 images ends with «fail»" in page
    assert "without looking at the brain" in page
    assert 'id="audit"' not in review_page(run, read_evidence(run)).read_text()


def test_leaks_that_were_allowed_are_an_alarm(run):
    change(run, leakage={"status": "allowed", "message": "4 of 60 cases are linked", "n_linked": 4})
    page = review_page(run, read_evidence(run)).read_text()
    assert '<p class="alarm">' in page.partition('id="partition"')[2].partition("</section>")[0]


def test_what_was_not_measured_names_the_command(run):
    claim = fill("claim", read_evidence(run))
    assert item(claim, "30").status == TODO
    assert "reslink study robustness" in item(claim, "30").author
    assert "reslink study transfer" in item(claim, "32").author


def test_a_study_and_an_audit_fill_their_items(run, tmp_path):
    study = tmp_path / "studies" / "robustness"
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"study": "robustness", "title": "R", "answer": ["Noise costs 5 points."]}))
    audited = tmp_path / "audited"
    audited.mkdir()
    (audited / "audit.json").write_text(json.dumps({"images": 60, "burned_in_text": ["a"], "identity": {"b": []}}))
    claim = fill("claim", read_evidence(run, [tmp_path / "studies", audited]))
    assert item(claim, "30").text == "Noise costs 5 points."
    assert item(claim, "30").status == "filled"
    assert "1 of 60 images, and identifying attributes in 1 files" in item(claim, "12").text


def test_outside_data_stands_under_its_name(run, make_run):
    other = make_run(name="hospital-b")
    evidence = read_evidence(run, [other])
    assert "hospital-b: accuracy" in item(fill("claim", evidence), "32").text
    assert "hospital-b" in review_page(run, evidence).read_text().partition('id="outside"')[2]


def test_figures_of_another_model_are_refused(run, make_run, tmp_path):
    other = make_run(name="hospital-b")
    change(other, bundle_sha256="cd" * 32)
    with pytest.raises(UsageError, match=r"hospital-b is about another model \(weights cdcdcdcdcdcdcdcd, the run has abab"):
        read_evidence(run, [other])
    change(other, bundle_sha256="ab" * 32)
    assert read_evidence(run, [other]).outside
    (tmp_path / "study.json").write_text(json.dumps({"study": "transfer", "facts": {"Weights SHA-256": "cd" * 8}}))
    with pytest.raises(UsageError, match="is about another model"):
        read_evidence(run, [tmp_path])
    with pytest.raises(UsageError, match="is the run itself"):
        read_evidence(run, [run])


def test_an_evaluation_that_lacks_its_figures_is_named(run):
    (run / "evaluation.json").write_text(json.dumps({"n": 3, "metrics": []}))
    with pytest.raises(InputError, match=r"evaluation.json cannot be used: confusion_matrix, labels is missing"):
        read_evidence(run)


def test_a_patient_on_two_sides_is_said_although_each_image_is_its_own_group(run):
    with (run / "splits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for i, row in enumerate(rows):
        row["group"], row["patient_id"] = row["sample_id"], "P1" if row["split"] in ("train", "test") and i < 8 else ""
    with (run / "splits.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert item(fill("claim", read_evidence(run)), "21").text.startswith("1 groups stand on two sides")
    assert "By whole groups" not in item(fill("claim", read_evidence(run)), "20").text


def test_how_the_data_was_divided_is_said_only_where_it_is_known(run):
    def told(**data):
        bundle = json.loads((run / "bundle" / "bundle.json").read_text())
        bundle["provenance"]["data"] = data
        (run / "bundle" / "bundle.json").write_text(json.dumps(bundle))
        return item(fill("claim", read_evidence(run)), "20")

    assert told(division="given").text.startswith("As the data set states: ")
    drawn = told(division="drawn")
    assert drawn.text.startswith("By whole groups (patients and near copies joined)")
    assert drawn.status == "filled"
    assert "does not say" in told().author


def change(run, **values):
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | values))


def test_abstained_cases_are_counted_only_where_something_was_fitted(run):
    def with_selective(**selective):
        evaluation = json.loads((run / "evaluation.json").read_text())
        (run / "evaluation.json").write_text(json.dumps(evaluation | {"selective": selective}))
        evidence = read_evidence(run)
        return FACTS["abstained"](evidence).text, {box.title: box.count for box in flow_of(evidence.run)}

    told, boxes = with_selective(n_abstained=0, n_covered=60, sets=None, n_refused=None)
    assert "always answers" in told
    assert "Abstained" not in boxes
    told, boxes = with_selective(n_abstained=7, n_covered=53, sets=None, n_refused=7, reasons={"far": 7})
    assert told.startswith("7 of 60")
    assert (boxes["Abstained"], boxes["Answered"]) == (7, 53)


def test_the_flow_adds_up(run):
    boxes = flow_of(read_evidence(run).run)
    counts = {box.title: box.count for box in boxes}
    assert (
        counts["Images that could be read"]
        == counts["Learned from: train"] + counts["Epoch chosen by: validation"] + counts["Test part"]
    )
    assert counts["Judged"] == json.loads((run / "evaluation.json").read_text())["n"]


def test_images_that_were_left_out_stand_in_the_flow_and_on_the_page(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation |= {
        "excluded": [{"path": "a<b>.png", "reason": "twin of a training image"}],
        "n_failed": 1,
        "failed": {"c.png": "blank"},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    evidence = read_evidence(run)
    counts = {box.title: box.count for box in flow_of(evidence.run)}
    assert counts["Left out: linked to the training or calibration data"] == 1
    assert counts["Left out: could not be read or judged"] == 1
    page = review_page(run, evidence).read_text()
    assert "a&lt;b&gt;.png" in page
    assert "a<b>" not in page


def test_the_page_holds_every_part_and_asks_nothing_of_the_network(run):
    evidence = read_evidence(run)
    path = review_page(run, evidence, fill("claim", evidence))
    page = path.read_text()
    assert path.name == "review-claim.html"
    for part in ("flow", "partition", "table", "figures", "outside", "abstained", "model", "checklist"):
        assert f'id="{part}"' in page
    assert "Research use only" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "The author must write this" in page
    assert (review_page(run, evidence)).name == "review.html"


def test_a_run_that_was_not_judged_and_a_folder_without_results_are_refused(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"holds no evaluation\.json"):
        read_evidence(empty)
    with pytest.raises(UsageError, match=r"holds no audit\.json, study\.json or evaluation\.json"):
        read_evidence(run, [empty])
    with pytest.raises(InputError, match="is not a folder"):
        read_evidence(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="Did you mean 'claim'"):
        fill("claims", read_evidence(run))
