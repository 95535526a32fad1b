"""Checklists: every item is there, filled from the run or marked for the author."""

from __future__ import annotations

import csv
import json

import pytest

from reslink.errors import InputError, UsageError
from reslink.reports.checklist.answers import ANSWERS
from reslink.reports.checklist.checklist import fill, names
from reslink.reports.checklist.evidence import read_evidence
from reslink.reports.checklist.page import write_review
from reslink.reports.run.flow_diagram import case_flow

TODO = "to be written by the author"


@pytest.fixture
def run(make_run):
    return make_run(name="first")


def item(checklist, number, topic=None):
    [match] = [entry for entry in checklist.items if entry.number == number and topic in (None, entry.topic)]
    return match


def test_the_checklists_have_every_item(run):
    evidence = read_evidence(run)
    claim = fill("claim", evidence)
    assert [entry.number for entry in claim.items] == [str(i) for i in range(1, 43)]
    tripod = {entry.number.rstrip("abcdefg") for entry in fill("tripod-ai", evidence).items}
    assert tripod == {str(i) for i in range(1, 28)}
    stard = {entry.number.rstrip("ab") for entry in fill("stard-ai", evidence).items}
    assert stard == {*(str(i) for i in range(1, 31)), "AI"}
    assert names() == ["claim", "stard-ai", "tripod-ai"]


@pytest.mark.parametrize("name", ["claim", "stard-ai", "tripod-ai"])
def test_each_item_is_filled_or_left_to_the_author(run, name):
    checklist = fill(name, read_evidence(run))
    for entry in checklist.items:
        assert entry.text or entry.author, entry
        assert (entry.status == TODO) == (not entry.text)
        assert (entry.status == "filled") == (bool(entry.text) and not entry.author)
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
    assert item(claim, "37").text.startswith(f"{counts[0][1] + counts[1][0]} of {evaluation['n']} predictions are wrong")
    table = item(fill("stard-ai", read_evidence(run)), "23").text
    assert f"true Tumor, predicted Healthy: {counts[1][0]}" in table


def test_the_page_shows_the_audit(run, tmp_path):
    checks = [{"check": "outside_head", "failed": True, "reason": "a model can score 0.9 without looking at the brain"}]
    (tmp_path / "audit.json").write_text(json.dumps({"images": 60, "verdict": "fail", "checks": checks, "skipped_checks": []}))
    page = write_review(run, read_evidence(run, [tmp_path])).read_text()
    assert "Verdict of the audit of 60 images: fail" in page
    assert "without looking at the brain" in page
    assert 'id="audit"' not in write_review(run, read_evidence(run)).read_text()


def test_allowed_leakage_is_an_alarm(run):
    change(run, leakage={"status": "allowed", "message": "4 of 60 cases overlap", "n_leaked": 4})
    page = write_review(run, read_evidence(run)).read_text()
    assert '<p class="alarm">' in page.partition('id="split"')[2].partition("</section>")[0]


def test_missing_results_name_the_command(run):
    claim = fill("claim", read_evidence(run))
    assert item(claim, "30").status == TODO
    assert "reslink experiment robustness" in item(claim, "30").author
    assert "reslink external" in item(claim, "32").author


def test_an_experiment_and_an_audit_fill_their_items(run, tmp_path):
    experiment = tmp_path / "experiments" / "robustness"
    experiment.mkdir(parents=True)
    (experiment / "experiment.json").write_text(
        json.dumps({"experiment": "robustness", "title": "R", "answer": ["Noise costs 5 points."]})
    )
    audited = tmp_path / "audited"
    audited.mkdir()
    (audited / "audit.json").write_text(json.dumps({"images": 60, "burned_in_text": ["a"], "identity": {"b": []}}))
    claim = fill("claim", read_evidence(run, [tmp_path / "experiments", audited]))
    assert item(claim, "30").text == "Noise costs 5 points."
    assert item(claim, "30").status == "filled"
    assert "1 of 60 images and identifying attributes in 1 files" in item(claim, "12").text


def test_external_data_is_listed_by_name(run, make_run):
    other = make_run(name="hospital-b")
    evidence = read_evidence(run, [other])
    assert "hospital-b: accuracy" in item(fill("claim", evidence), "32").text
    section = write_review(run, evidence).read_text().partition('id="external"')[2]
    assert "external: none of the 60 files is in the data of the run; copies of its " in section
    assert "External data were not evaluated" not in section


def test_an_evaluation_of_the_runs_own_data_is_not_external(run, make_run):
    again = make_run(name="again")
    header, *rows = (run / "predictions.csv").read_text().splitlines(keepends=True)
    held_out = [row for i, row in enumerate(rows) if i // 2 % 4 == 3]  # as in the fixture
    (again / "predictions.csv").write_text("".join([header, *held_out]))
    evidence = read_evidence(run, [again])
    claim = item(fill("claim", evidence), "32")
    assert "again is not external data (internal (held-out): 14 of 14 images are in the data of the run)" in claim.text
    assert "reslink external" in claim.author
    section = write_review(run, evidence).read_text().partition('id="external"')[2]
    assert "internal (held-out): 14 of 14 images" in section
    assert "External data were not evaluated" in section


def test_an_evaluation_of_the_training_split_is_not_held_out(run, make_run):
    again = make_run(name="again")
    rows = (run / "predictions.csv").read_text().splitlines(keepends=True)
    (again / "predictions.csv").write_text("".join(rows[:5]))  # the first four images of splits.csv are of the training split
    section = write_review(run, read_evidence(run, [again])).read_text().partition('id="external"')[2]
    assert "internal (training data): 4 of 4 images are in the data of the run (4 train)" in section
    assert "held-out" not in section


@pytest.mark.parametrize(
    ("name", "kind"),
    [("run", "internal (training data)"), ("hospital-b", "external"), ("", "unknown")],
)
def test_the_data_of_an_external_evaluation_is_external_only_if_its_files_are(run, make_run, tmp_path, name, kind):
    folder = tmp_path / "experiments" / "external"
    (folder / "site").mkdir(parents=True)
    if name:
        data = run if name == "run" else make_run(name=name)
        for file in ("evaluation.json", "predictions.csv"):
            (folder / "site" / file).write_text((data / file).read_text())
    accuracy = {"estimate": 0.8, "ci_low": 0.7, "ci_high": 0.9, "method": "bootstrap", "n": 60}
    drop = {"name": "drop", "rows": [{"data": "site", "metric": "accuracy", "external": accuracy}]}
    experiment = {
        "experiment": "external",
        "title": "External",
        "answer": ["The accuracy is 0.8."],
        "tables": [drop],
    }
    (folder / "experiment.json").write_text(json.dumps(experiment))
    evidence = read_evidence(run, [tmp_path / "experiments"])
    section = write_review(run, evidence).read_text().partition('id="external"')[2]
    assert f"<td>{kind}: " in section
    assert ("External data were not evaluated" in section) == (kind != "external")
    answer = item(fill("claim", evidence), "32")
    assert (f"site is not external data ({kind}: " in answer.text) == (kind != "external")
    assert ("external data were not evaluated" in answer.author) == (kind != "external")


def test_results_of_another_model_are_refused(run, make_run, tmp_path):
    other = make_run(name="hospital-b")
    change(other, bundle_sha256="cd" * 32)
    with pytest.raises(UsageError, match=r"hospital-b belongs to another model \(weights cdcdcdcdcdcdcdcd, the run has abab"):
        read_evidence(run, [other])
    change(other, bundle_sha256="ab" * 32)
    assert read_evidence(run, [other]).evaluations
    (tmp_path / "experiment.json").write_text(json.dumps({"experiment": "external", "facts": {"Weights SHA-256": "cd" * 8}}))
    with pytest.raises(UsageError, match="belongs to another model"):
        read_evidence(run, [tmp_path])
    with pytest.raises(UsageError, match="is the run itself"):
        read_evidence(run, [run])


def test_an_incomplete_evaluation_is_named(run):
    (run / "evaluation.json").write_text(json.dumps({"n": 3, "metrics": []}))
    with pytest.raises(InputError, match=r"evaluation.json cannot be used: confusion_matrix, labels is missing"):
        read_evidence(run)


def test_a_patient_in_two_splits_is_reported_although_each_image_is_a_group(run):
    with (run / "splits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for i, row in enumerate(rows):
        row["group"], row["patient_id"] = row["sample_id"], "P1" if row["split"] in ("train", "test") and i < 8 else ""
    with (run / "splits.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = item(fill("claim", read_evidence(run)), "21").text
    assert text.startswith("Of 80 patients or duplicate groups, 1 is in more than one split")
    assert "whole groups" not in item(fill("claim", read_evidence(run)), "20").text


def test_the_source_of_the_split_is_stated_if_known(run):
    def answer(**data):
        bundle = json.loads((run / "bundle" / "bundle.json").read_text())
        bundle["provenance"]["data"] = data
        (run / "bundle" / "bundle.json").write_text(json.dumps(bundle))
        return item(fill("claim", read_evidence(run)), "20")

    assert answer(split_source="given").text.startswith("Given by the data set: ")
    drawn = answer(split_source="drawn")
    assert drawn.text.startswith("Random split of whole groups (patients, with near duplicates joined)")
    assert drawn.status == "filled"
    assert "given by the data set or drawn at random" in answer().author


def change(run, **values):
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | values))


def test_abstained_cases_are_counted_if_the_model_can_abstain(run):
    def with_selective(**selective):
        evaluation = json.loads((run / "evaluation.json").read_text())
        (run / "evaluation.json").write_text(json.dumps(evaluation | {"selective": selective}))
        evidence = read_evidence(run)
        return ANSWERS["abstention"](evidence).text, {step.title: step.n_images for step in case_flow(evidence.run)}

    answer, steps = with_selective(n_abstained=0, n_covered=60, prediction_sets=None, n_out_of_distribution=None)
    assert "answers every case" in answer
    assert "Abstained" not in steps
    answer, steps = with_selective(
        n_abstained=7,
        n_covered=53,
        prediction_sets=None,
        n_out_of_distribution=7,
        reasons={"far": 7},
        silent_errors={"estimate": 0.12345, "ci_low": 0.1, "ci_high": 0.2},
    )
    assert answer == (
        "The model abstained from 7 of 60 cases; the other metrics include them; "
        "silent errors (wrong and answered) 0.123 (0.100 to 0.200)"
    )
    assert (steps["Abstained"], steps["Answered"]) == (7, 53)


def test_excluded_images_are_in_the_flow_and_on_the_page(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation |= {
        "excluded": [{"path": "a<b>.png", "reason": "near duplicate of a training image"}],
        "n_failed": 1,
        "failed": {"c.png": "blank"},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    evidence = read_evidence(run)
    counts = {step.title: step.n_images for step in case_flow(evidence.run)}
    assert counts["Excluded: overlap with the training or calibration data"] == 1
    assert counts["Excluded: could not be read or predicted"] == 1
    page = write_review(run, evidence).read_text()
    assert "a&lt;b&gt;.png" in page
    assert "a<b>" not in page


def test_the_page_has_every_section_and_makes_no_request(run):
    evidence = read_evidence(run)
    path = write_review(run, evidence, fill("claim", evidence))
    page = path.read_text()
    assert path.name == "review-claim.html"
    for part in ("flow", "split", "table", "metrics", "external", "abstention", "model", "checklist"):
        assert f'id="{part}"' in page
    assert "Research use only" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "To be written by the author" in page
    assert (write_review(run, evidence)).name == "review.html"


def test_a_run_without_evaluation_and_a_folder_without_results_are_refused(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"holds no evaluation\.json"):
        read_evidence(empty)
    with pytest.raises(UsageError, match=r"holds no audit\.json, experiment\.json or evaluation\.json"):
        read_evidence(run, [empty])
    with pytest.raises(InputError, match="is not a folder"):
        read_evidence(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="Did you mean 'claim'"):
        fill("claims", read_evidence(run))


def test_refused_images_stand_beside_every_number(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    reason = "the file is CT, and the model is for MR of the head"
    evaluation |= {"n_refused": 2, "refused": {"a.dcm": reason, "b.dcm": reason}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    claim = fill("claim", read_evidence(run))
    text = f"2 images refused and not counted: {reason}"
    for number in ("13", "19", "35", "36"):
        assert text in item(claim, number).text, number
    assert "Refused and not counted: 2" in item(claim, "33").text
