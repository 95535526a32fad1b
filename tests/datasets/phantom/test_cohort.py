"""Cohorts: labels, settings, and no simple statistic that tells the classes apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from reslink.datasets.phantom import writers
from reslink.datasets.phantom.cohort import PhantomSettings, plan_cohort, render_patient
from reslink.errors import UsageError


@pytest.mark.slow
def test_a_random_forest_on_histogram_and_thumbnail_cannot_tell_the_classes_apart() -> None:
    settings = PhantomSettings(patients=90, seed=21, slices=1, size=128)
    features, labels, groups = [], [], []
    for row in plan_cohort(settings).rows:
        patient = render_patient(21, row.patient, tumor=row.tumor, slices=1, size=128)
        gray = writers.to_gray(patient.slices[0].pixels, ct=True)
        thumbnail = gray.reshape(16, 8, 16, 8).mean((1, 3)) / 255
        features.append(np.concatenate([np.histogram(gray, 64, (0, 256))[0] / gray.size, thumbnail.ravel()]))
        labels.append(row.tumor)
        groups.append(row.patient)
    x, y = np.array(features), np.array(labels)
    score = np.zeros(len(y))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, y, groups):
        forest = RandomForestClassifier(150, random_state=0, min_samples_leaf=2).fit(x[train], y[train])
        score[test] = forest.predict_proba(x[test])[:, 1]
    assert roc_auc_score(y, score) < 0.8


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_labels_do_not_follow_a_shuffle_with_the_same_seed(seed: int) -> None:
    """numpy pads seeds with zeros: a label order drawn from [seed, 0] would be that of default_rng(seed)."""
    rows = plan_cohort(PhantomSettings(patients=128, seed=seed, slices=1)).rows
    for given in (seed, [seed, 0], 0):
        order = np.random.default_rng(given).permutation(128)
        first = sum(rows[index].tumor for index in order[:64])
        assert 20 <= first <= 44  # 32 expected, standard deviation 2.8


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no setting 'patient'.*Did you mean 'patients'"):
        PhantomSettings.parse({"patient": 3})
    with pytest.raises(UsageError, match=r"no setting 'faults.duplicate'.*Did you mean 'duplicates'"):
        PhantomSettings.parse({"faults": {"duplicate": 0.1}})


@pytest.mark.parametrize(
    "values",
    [{"patients": 0}, {"patients": 2.5}, {"modality": "PET"}, {"size": 32}, {"tumor_share": 1.5}, {"faults": {"text": -0.1}}],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"setting '{next(iter(values))}"):
        PhantomSettings.parse(values)


def test_class_names_must_differ() -> None:
    with pytest.raises(UsageError, match="differ in more than case"):
        PhantomSettings.parse({"healthy": "tumor"})
