"""
Find a shortcut
===============

In this data set, only tumor images have burned-in text. You learn how the audit finds such
a shortcut, and what it does to a network: the network reads the text and fails on images
without it. The example uses synthetic heads.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images with a shortcut
# ---------------------------
# The setting ``text`` burns letters into all tumor images. The test patients exist twice,
# with and without text.
import tempfile
from pathlib import Path

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())


def make_heads(name, patients, seed, text):
    settings = {"patients": patients, "seed": seed, "modality": "FLAIR", "slices": 1, "size": 128}
    settings["faults"] = {"text": text}
    make_cohort(folder / name, PhantomSettings.parse(settings))
    return reslink.Manifest.open(folder / name)


training = make_heads("training", patients=56, seed=0, text=1.0)
with_text = make_heads("with_text", patients=30, seed=1, text=1.0)
without_text = make_heads("without_text", patients=30, seed=1, text=0.0)
print(training)

# %%
# Audit the training data
# -----------------------
# The probe ``outside_head`` sees only pixels outside the head, and still predicts the
# class. Its check fails. ``burned_in_text`` lists the images with text.
result = reslink.audit(training, workers=0)
print("verdict:", result["verdict"])
for check in result["checks"]:
    print(f"{check['check']}: {'failed' if check['failed'] else 'passed'}")
[probe] = [probe for probe in result["shortcuts"] if probe["probe"] == "outside_head"]
balanced = probe["balanced_accuracy"]
interval = f"{balanced['ci_low']:.2f} to {balanced['ci_high']:.2f}"
print(f"balanced accuracy of the probe: {balanced['estimate']:.2f} ({interval})")
print("images with burned-in text:", len(result["burned_in_text"]))

# %%
# Train on the whole image
# ------------------------
# By default, reslink removes everything outside the head. Here we switch this off.
import numpy as np


def paths_and_labels(manifest):
    cases = manifest.cases
    return [case.path for case in cases], np.array([case.label for case in cases])


network = {
    "preprocess.isolate_head": False,
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.epochs": 13,
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
}
model = reslink.ResLinkClassifier(settings=network).fit(*paths_and_labels(training))

# %%
# Take the shortcut away
# ----------------------
# Both test sets show the same patients. Only the text differs.
accuracy = {
    "with text": model.score(*paths_and_labels(with_text)),
    "without text": model.score(*paths_and_labels(without_text)),
}
for name, value in accuracy.items():
    print(f"accuracy {name}: {value:.2f}")

# %%
# Look at the images
# ------------------
# The pictures show the tumor patient whose probability changes most when the text is missing.
# The bars show the accuracy; the dashed line is chance.
import matplotlib.pyplot as plt

is_tumor = np.array([case.label == "Tumor" for case in with_text.cases])
tests = {"with text": with_text, "without text": without_text}
probability = {}
for name, test in tests.items():
    paths, _ = paths_and_labels(test)
    probability[name] = model.predict_proba(paths)[:, 1]
changed = np.argmax(is_tumor * (probability["with text"] - probability["without text"]))

figure, axes = plt.subplots(1, 3, figsize=(9, 3.3))
for axis, (name, test) in zip(axes, tests.items(), strict=False):
    axis.imshow(reslink.read_image(test.cases[changed].path).pixels, cmap="gray")
    axis.set_title(f"{name}: p(Tumor) = {probability[name][changed]:.2f}", fontsize=10)
    axis.axis("off")
axes[2].bar(list(accuracy), list(accuracy.values()), color=["tab:blue", "tab:red"])
axes[2].axhline(0.5, color="black", linestyle="--")
axes[2].set(ylabel="accuracy", ylim=(0, 1.05))
figure.tight_layout()

# %%
# Head isolation (``preprocess.isolate_head``, on by default) keeps the network from seeing this
# text, but it does not remove shortcuts inside the head. See :doc:`/concepts/shortcuts`.
