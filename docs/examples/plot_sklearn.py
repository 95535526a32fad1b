"""
Cross-validate with scikit-learn
================================

:class:`reslink.ResLinkClassifier` is a scikit-learn estimator. You learn how to put it into
a pipeline and how to cross-validate it by patient. The example uses synthetic heads, whose
lesions are made brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make arrays
# -----------
# ``X`` holds images in memory, two slices of each patient. ``groups`` names the patient of
# each image.
import numpy as np

from reslink.datasets.phantom.cohort import render_patient

X, y, groups = [], [], []
for number in range(1, 37):
    tumor = number % 2 == 0
    patient = render_patient(0, number, tumor=tumor, sequence="T1", slices=2, size=128)
    for plane in patient.slices:
        X.append(plane.pixels + 800 * plane.mask)  # the mask marks the lesion
        y.append("Tumor" if tumor else "Healthy")
        groups.append(f"P{number:02d}")
X, y, groups = np.array(X), np.array(y), np.array(groups)
print("X:", X.shape, X.dtype, "patients:", len(set(groups)))

# %%
# Build a pipeline
# ----------------
# Steps before the classifier work on arrays. This one smooths each slice a little. ``unit``
# states that the arrays are MR intensities.
from scipy.ndimage import gaussian_filter
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import reslink

network = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.epochs": 8,
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
}


def smooth(slices):
    return gaussian_filter(slices, sigma=(0, 0.5, 0.5))


model = reslink.ResLinkClassifier(unit="MR", settings=network)
pipeline = make_pipeline(FunctionTransformer(smooth), model)

# %%
# Cross-validate
# --------------
# ``GroupKFold`` keeps all slices of a patient in one fold. ``cross_validate`` works like
# ``cross_val_score`` and also returns the fitted pipelines.
from sklearn.model_selection import GroupKFold, cross_validate

scores = cross_validate(
    pipeline,
    X,
    y,
    groups=groups,
    cv=GroupKFold(3),
    scoring=["accuracy", "roc_auc"],
    return_estimator=True,
    return_indices=True,
)
for name in ("accuracy", "roc_auc"):
    values = scores[f"test_{name}"]
    print(f"{name}: {values.round(2)}, mean {values.mean():.2f}")

# %%
# Draw the ROC curves
# -------------------
# Each curve is one fold, evaluated on patients that its network has not seen.
import matplotlib.pyplot as plt
from sklearn.metrics import RocCurveDisplay

figure, axis = plt.subplots(figsize=(4.6, 4.4))
for fitted, test in zip(scores["estimator"], scores["indices"]["test"], strict=True):
    name = f"{len(set(groups[test]))} patients"
    RocCurveDisplay.from_estimator(fitted, X[test], y[test], name=name, pos_label="Tumor", ax=axis)
axis.plot([0, 1], [0, 1], color="gray", linestyle="--")
axis.set_aspect("equal")
figure.tight_layout()

# %%
# ``cross_val_score`` passes ``groups`` to the splitter only. If your data set has near
# duplicates under several patient IDs, make the groups with :func:`reslink.split`; see
# :doc:`/auto_examples/plot_leak`.
