"""
Export to ONNX and check parity
===============================

You learn how to export a model to ONNX, how reslink checks that the export gives the same
answers, and how to run the file with ONNX Runtime. The example uses synthetic heads. The
task is to tell T1 from T2 contrast, which a small network learns in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Train
# -----
import tempfile
from pathlib import Path

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())


def make_heads(name, patients, seed):
    paths, labels = [], []
    for contrast in ("T1", "T2"):
        settings = {"patients": patients, "seed": seed, "modality": contrast}
        cohort = folder / name / contrast
        make_cohort(cohort, PhantomSettings(**settings, slices=1, size=128))
        images = sorted(cohort.glob("images/*.png"))
        paths += images
        labels += [contrast] * len(images)
    return paths, labels


model = reslink.ResLinkClassifier(
    settings={
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.variant": "reslink_small",
        "trainer.epochs": 10,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.workers": 0,
    },
    out=folder / "run",
)
model.fit(*make_heads("training", patients=20, seed=0))
test_paths, test_labels = make_heads("test", patients=10, seed=1)
print("accuracy on new patients:", model.score(test_paths, test_labels))

# %%
# Export
# ------
# ``export`` does the same as the command ``reslink export``. It writes the files, loads them
# with ONNX Runtime, and compares all outputs with those of reslink. If they differ by more than
# the tolerance, it raises an error and writes nothing.
from reslink.export.folder import export
from reslink.export.parity import Inputs

exported = folder / "onnx"
bundle = reslink.Bundle.load(folder / "run/bundle")
report = export(bundle, "onnx", exported, Inputs.read(folder / "test/T1/images", count=8))
print("tolerance:", report["tolerance"])
for name, parity in report["files"].items():
    print(f"{name}: largest difference of a probability {parity['probabilities']:.1e},")
    print(f"  other labels {parity['labels']} of {parity['images']}")

# %%
# The folder also holds the preprocessing, labels, license and model card:
for path in sorted(exported.iterdir()):
    print(f"{path.stat().st_size:>9,} bytes  {path.name}")

# %%
# Run the file
# ------------
# ``network.onnx`` takes preprocessed pixels and needs no reslink.
# ``preprocess_reference.py`` in the same folder computes these pixels with NumPy, OpenCV and
# Pillow; here we use the bundle.
import numpy as np
import onnxruntime

pixels = np.stack([bundle.preprocess.pixels(reslink.read_image(path)) for path in test_paths])
session = onnxruntime.InferenceSession(exported / "network.onnx")
[from_onnx] = session.run(["probabilities"], {"pixels": pixels})
from_torch = model.predict_proba(test_paths)
print(f"largest difference: {np.abs(from_onnx - from_torch).max():.1e}")

# %%
# Compare the answers
# -------------------
# Left: both probabilities of T2 for each test image; equal answers are on the diagonal. Right:
# a test image of each class with the answer of ONNX Runtime.
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
for contrast in ("T1", "T2"):
    chosen = np.array(test_labels) == contrast
    axes[0].scatter(from_torch[chosen, 1], from_onnx[chosen, 1], label=contrast)
axes[0].plot([0, 1], [0, 1], color="gray", linewidth=1)
axes[0].set(xlabel="reslink (torch)", ylabel="ONNX Runtime", title="probability of T2")
axes[0].legend()
for axis, index in zip(axes[1:], [0, len(test_paths) - 1], strict=True):
    best = from_onnx[index].argmax()
    axis.imshow(reslink.read_image(test_paths[index]).pixels, cmap="gray")
    axis.set_title(f"{bundle.labels.names[best]}, p = {from_onnx[index, best]:.2f}", fontsize=10)
    axis.axis("off")
figure.tight_layout()
