"""
Compare two models
==================

You learn how to compare two models on the same patients, with intervals of the differences
and paired tests. One model is trained for three epochs, the other for ten. The example uses
synthetic heads, whose lesions are made brighter so that a small network learns to find
them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())


def make_heads(name, patients, seed):
    settings = PhantomSettings(patients=patients, seed=seed, modality="T1", slices=1, size=128)
    make_cohort(folder / name, settings)
    for mask in folder.glob(f"{name}/masks/*.png"):  # make the lesions brighter
        path = folder / name / "images" / mask.name
        pixels = np.asarray(Image.open(path)) + 50.0 * (np.asarray(Image.open(mask)) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return reslink.Manifest.open(folder / name)


training = make_heads("training", patients=72, seed=0)
test = make_heads("test", patients=64, seed=1)

# %%
# Train two models
# ----------------
# Both models have the same network, patients and seed. Only the number of epochs differs.
network = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
}


def train(name, epochs):
    settings = network | {"trainer.epochs": epochs}
    model = reslink.ResLinkClassifier(settings=settings, out=folder / name)
    model.fit([case.path for case in training.cases], [case.label for case in training.cases])
    return folder / name / "bundle"


short = train("three-epochs", epochs=3)
long = train("ten-epochs", epochs=10)

# %%
# Compare
# -------
# ``compare_bundles`` does the same as the command ``reslink compare``. Differences are the
# first model minus the second. Cases that look like near duplicates of the training images of
# a model are excluded for both.
from reslink.evaluation.compare import compare_bundles

result = compare_bundles({"ten-epochs": long, "three-epochs": short}, test, folder / "compared")
[comparison] = result["comparisons"]
print("compared cases:", result["n"], "of", len(test))
for name, model in result["models"].items():
    for metric in ("auroc", "accuracy"):
        print(f"{name}: {metric} {model['metrics'][metric]['estimate']:.3f}")

# %%
# DeLong's test compares the AUROC, and McNemar's test compares the other metrics. ``p_holm``
# is corrected for all tests of the comparison.
for test_result in comparison["tests"]:
    p_holm = test_result["p_holm"]
    print(f"{test_result['metric']:<12} {test_result['name']:<10} p (Holm) = {p_holm:.3g}")

# %%
# Draw the differences
# --------------------
# A point is the difference, a line its 95 % interval. Where the line crosses zero, the test
# cases do not show which model is better.
import matplotlib.pyplot as plt

names = ["auroc", "accuracy", "sensitivity", "specificity"]
figure, axis = plt.subplots(figsize=(7, 2.8))
for position, name in enumerate(names):
    difference = comparison["differences"][name]
    axis.plot([difference["ci_low"], difference["ci_high"]], [position, position], color="tab:blue")
    axis.plot(difference["estimate"], position, "o", color="tab:blue")
axis.axvline(0, color="gray", linestyle="--")
axis.set_yticks(range(len(names)), names)
axis.set_xlabel(f"{comparison['a']} minus {comparison['b']}")
axis.invert_yaxis()
figure.tight_layout()
