"""The data of the sections of a run report."""

from __future__ import annotations

import pytest

from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.run.run_folder import RunFolder, read_run
from reslink.reports.run.sections import (
    answer_cards,
    bundle_settings,
    confusion_matrix,
    facts,
    flatten_settings,
    gallery,
    group_name,
    headline_metrics,
    leakage_notice,
    learning_curve_columns,
    localization,
    run_settings,
    split_groups,
    split_table,
    title,
)


def test_the_bar_of_a_metric_is_its_interval_in_percent():
    estimate = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95}
    undefined = {"estimate": None, "ci_low": None, "ci_high": None}
    first, second = headline_metrics({"metrics": {"accuracy": undefined, "auroc": estimate, "brier": estimate}})
    assert first == {"name": METRIC_NAMES["auroc"], "estimate": estimate, "bar": {"x": 80.0, "width": 15.0}, "dot": 90.0}
    assert (second["bar"], second["dot"]) == (None, None)
    assert headline_metrics(None) == []


def test_the_split_table_counts_images_and_groups():
    rows = [
        {"sample_id": name, "label": label, "split": split, "group": group, "patient_id": patient}
        for name, label, split, group, patient in (
            ("1", "a", "train", "g1", "p1"),
            ("2", "a", "train", "g1", "p1"),
            ("3", "b", "test", "g2", "p1"),
            ("4", "a", "validation", "g3", ""),
        )
    ]
    table = split_table(rows)
    assert table["splits"] == ["train", "validation", "test"]
    assert table["lines"] == [
        ("a", [(2, 1), (1, 1), (0, 0)]),
        ("b", [(0, 0), (0, 0), (1, 1)]),
        ("All", [(2, 1), (1, 1), (1, 1)]),
    ]
    assert (table["images"], table["groups"], table["shared"]) == (4, 3, 1), "p1 is in two splits"
    assert split_table([]) is None


def test_an_image_that_is_not_used_leaks_nothing():
    rows = [
        {"sample_id": str(i), "label": "a", "split": split, "group": "g1", "patient_id": "p1"}
        for i, split in enumerate(("test", "unused"))
    ]
    table = split_table(rows)
    assert (table["splits"], table["shared"], table["images"], table["groups"]) == (["test", "unused"], 0, 2, 1)


def test_a_fine_tuned_and_extended_run_says_so():
    lineage = [
        {"name": None, "weights_sha256": "ab" * 32, "license": "CC BY 4.0", "labels": ["a", "b"]},
        {"name": "ct", "weights_sha256": "cd" * 32, "license": "CC BY 4.0", "labels": ["a", "b"]},
    ]
    extensions = [{"after_epoch": 1, "from_epochs": 1, "to_epochs": 2}]
    bundle = {"labels": ["a", "b"], "lineage": lineage, "provenance": {"extensions": extensions}}
    rows = dict(facts(RunFolder("run", bundle=bundle, epochs=[{}, {}])))
    assert rows["Epochs"] == "2 (extended after epoch 1)"
    assert rows["Fine-tuned from"] == ("a bundle (weights abababababab…), which was fine-tuned from ct (weights cdcdcdcdcdcd…)")


def test_nested_settings_become_rows():
    settings = {"model": {"dims": [8, 16], "name": None}, "seed": 3}
    assert flatten_settings(settings) == [("model.dims", "8, 16"), ("model.name", "–"), ("seed", "3")]
    assert flatten_settings({}) == []


def test_the_shares_of_a_confusion_matrix_are_by_row():
    table = confusion_matrix({"confusion_matrix": {"labels": ["a", "b"], "counts": [[3, 1], [0, 0]]}})
    assert [[cell["share"] for cell in row["cells"]] for row in table["rows"]] == [[0.75, 0.25], [0, 0]]
    assert confusion_matrix({}) is None


def test_leakage_is_stated_unless_there_is_none():
    for status, name in (("unknown", "Leakage not checked"), ("excluded", "Leaked cases excluded"), ("allowed", "Leakage")):
        notice = leakage_notice({"leakage": {"status": status, "message": "why"}})
        assert notice == {
            "title": name,
            "message": "why",
            "allowed": status == "allowed",
            "excluded": status == "excluded",
        }
    assert leakage_notice({"leakage": {"status": "none"}}) is leakage_notice(None) is None


def test_the_answers_of_a_model_that_can_abstain_become_cards():
    share = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95}
    selective = {"coverage": share, "silent_errors": share, "n_out_of_distribution": 3}
    assert [card["name"] for card in answer_cards({"selective": selective})] == [
        "coverage (share answered)",
        "silent errors (wrong and answered)",
    ]
    assert answer_cards({"selective": selective | {"n_out_of_distribution": None}}) == answer_cards(None) == []


def test_groups_are_named_by_what_they_keep_together():
    assert group_name({"group_by": "scan"}) == split_groups({"data": {"group_by": "scan"}}) == "patients or probable scans"
    assert group_name(None) == split_groups(None) == "patients or duplicate groups"


def test_an_evaluation_states_model_data_and_date():
    evaluation = {"n": 4, "n_groups": 2, "group_by": "scan", "bundle": "ct", "bundle_sha256": "ab" * 32, "data": "clinic"}
    files = RunFolder("out", evaluation=evaluation | {"date": "2026-11-30"})
    assert title(files) == "ct on clinic"
    assert facts(files) == [
        ("Evaluated cases", "4"),
        ("Patients or probable scans", "2"),
        ("Model", "ct"),
        ("Weights SHA-256", "ab" * 8),
        ("Data set", "clinic"),
        ("Date", "2026-11-30"),
    ]
    assert title(RunFolder("out", evaluation={"bundle": "ct"})) == "out", "written by an earlier version"


def test_the_numbers_of_a_decision_have_three_decimals():
    decision = {"threshold": 0.342402, "by_label": [{"threshold": 0.1234567}], "fitted_on": {"n_images": 670}}
    rows = dict(bundle_settings({"weights": {"sha256": "ab"}, "decision": decision}))
    assert rows["decision.threshold"] == "0.342"
    assert rows["decision.fitted_on.n_images"] == "670"
    assert "0.1234" not in rows["decision.by_label"]


def test_the_facts_of_a_run(make_run):
    assert facts(read_run(make_run())) == [
        ("Classes", "Healthy, Tumor (positive: Tumor)"),
        ("Evaluated cases", "60 (test split)"),
        ("Patients or duplicate groups", "30"),
        ("Network", "reslink_small"),
        ("Split", "train 50 %, validation 25 %, test 25 %"),
        ("Seed", "7"),
        ("Epochs", "3"),
    ]
    assert facts(RunFolder("empty")) == []


@pytest.mark.parametrize(
    ("data", "settings", "split", "shown"),
    [
        ({"split_source": "given"}, {}, "train 50 %, test 50 %; stated by the data", False),
        ({"split_source": "drawn"}, {}, "train 50 %, test 50 %; drawn", True),
        ({"split_source": "drawn"}, {"folds": 5}, "train 50 %, test 50 %; drawn", False),
        ({}, {}, "train 50 %, test 50 %", True),
    ],
)
def test_the_split_is_the_one_that_was_used(data, settings, split, shown):
    rows = [{"sample_id": f"{i}", "label": "a", "group": f"{i}", "split": ("train", "test")[i % 2]} for i in range(4)]
    config = {"data": {"fractions": [0.75, 0.1, 0.15], "folds": None, **settings}}
    run = RunFolder("run", config=config, splits=rows, bundle={"labels": ["a", "b"], "provenance": {"data": data}})
    assert ("Split", split) in facts(run)
    assert ("data.fractions" in dict(run_settings(run))) is shown


def test_columns_are_stated_where_their_names_are_not_those_of_the_roles():
    canonical = {"path": "path", "label": "Label"}
    other = {"path": "path", "label": "Dx", "patient_id": "MRN <b>"}
    assert "Columns" not in dict(facts(RunFolder("run", evaluation={"columns": canonical})))
    stated = dict(facts(RunFolder("run", evaluation={"columns": other})))["Columns"]
    assert stated == "path: path, label: Dx, patient_id: MRN <b>"
    bundle = {"labels": [], "provenance": {"data": {"columns": other}}}
    assert dict(facts(RunFolder("run", bundle=bundle)))["Columns"].endswith("patient_id: MRN <b>")


def test_the_columns_of_the_learning_curves():
    epochs = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_auroc": 0.5, "val_f1": 0.5}]
    assert learning_curve_columns(epochs, "loss") == {"train_loss": "training", "val_loss": "validation"}
    assert learning_curve_columns(epochs, "score") == {"val_auroc": "AUROC"}


def test_a_picture_without_an_entry_is_still_shown():
    first, second = gallery(
        RunFolder(
            "run",
            pictures={"gallery_01.png": b"a", "gallery-wrong_cases.png": b"b"},
            gallery=[{"file": "gallery_01.png", "label": "Tumor"}],
        )
    )
    assert (first["case"], first["title"]) == ({"file": "gallery_01.png", "label": "Tumor"}, "Correct and wrong cases")
    assert (second["case"], second["title"]) == (None, "wrong cases")


def test_maps_that_point_less_often_than_the_center_are_named() -> None:
    methods = {
        "final_attention": {"pointing_game": {"estimate": 0.143}},
        "grad_cam": {"pointing_game": {"estimate": 0.714}},
        "first_attention": {"energy_inside": {"estimate": 0.1}},
        "center": {"pointing_game": {"estimate": 0.714}},
    }
    table = localization({"localization": {"n": 7, "methods": methods}})
    assert table is not None
    assert table["below"] == ["Final attention α"]
    del methods["center"]
    assert localization({"localization": {"n": 7, "methods": methods}})["below"] == []  # type: ignore[index]
