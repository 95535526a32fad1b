"""
Explain predictions and compare with lesions
============================================

You learn how to draw attention and evidence maps of a trained network, and how to measure
whether they point at the lesion. The example uses synthetic heads with lesion masks. The
lesions are made brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images with lesion masks
# -----------------------------
# The column ``mask`` of the manifest names the lesion mask of each tumor image.
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())


def make_heads(name, patients, seed, tumor_share=0.5):
    settings = {"patients": patients, "seed": seed, "modality": "T1", "slices": 1, "size": 128}
    make_cohort(folder / name, PhantomSettings.parse(settings | {"tumor_share": tumor_share}))
    for mask in folder.glob(f"{name}/masks/*.png"):  # make the lesions brighter
        path = folder / name / "images" / mask.name
        pixels = np.asarray(Image.open(path)) + 80.0 * (np.asarray(Image.open(mask)) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder / name


training = make_heads("training", patients=80, seed=0)
new = make_heads("new", patients=12, seed=1, tumor_share=1.0)

# %%
# Train with supervised attention
# -------------------------------
# ``attention_supervision`` adds a loss term that keeps the attention weights low outside the
# lesion. ``reslink.train`` evaluates on a test split and writes a report.
run = reslink.train(
    training,
    folder / "run",
    settings={
        "attention_supervision.weight": 1,
        "attention_supervision.target": "lesion",
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.variant": "reslink_small",
        "trainer.epochs": 12,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.workers": 0,
    },
)
print("test images:", run["n_test"])
print("AUROC on the test split:", round(run["metrics"]["auroc"]["estimate"], 3))

# %%
# Explain new images
# ------------------
# :func:`reslink.explain` writes a picture and a file with the maps for each image. Here it
# reads a data set, so it also compares each map with the lesion mask.
methods = ["first_attention", "final_attention", "grad_cam"]
out = folder / "explained"
explanations = reslink.explain(run["bundle"], new, out, methods=methods, sanity=False)
print("images explained:", len(explanations))

# %%
# Measure the localization
# ------------------------
# Pointing game: the maximum of the map is on the lesion or close to it. Energy inside: the
# share of the map that lies on the lesion.
print(f"{'map':<16} {'pointing game':>14} {'energy inside':>14}")
for method in methods:
    measures = [explanation.methods[method] for explanation in explanations]
    hits = np.mean([measure["pointing_game"] for measure in measures])
    energy = np.mean([measure["energy_inside"] for measure in measures])
    print(f"{method:<16} {hits:>14.2f} {energy:>14.2f}")
masks = [np.asarray(Image.open(path)) > 0 for path in new.glob("masks/*.png")]
print("mean share of an image that the lesion covers:", np.mean(masks).round(3))

# %%
# Draw the maps
# -------------
# Each row is a new patient. The line is the border of the lesion mask; warm colors are high
# values of the map. A map shows what the network used, which need not be the lesion.
import matplotlib.pyplot as plt

figure, axes = plt.subplots(3, 1 + len(methods), figsize=(9, 7))
for row, explanation in zip(axes, explanations, strict=False):
    path = Path(explanation.path)
    pixels = np.asarray(Image.open(path))
    mask = np.asarray(Image.open(new / "masks" / path.name)) > 0
    maps = np.load(out / explanation.maps)
    row[0].set_title(f"{explanation.label}, p = {explanation.probability:.2f}", fontsize=9)
    for axis, method in zip(row, [None, *methods], strict=True):
        axis.imshow(pixels, cmap="gray")
        if method is not None:
            axis.imshow(maps[method].astype(float), cmap="inferno", alpha=0.5)
            axis.set_title(method, fontsize=9)
        axis.contour(mask, levels=[0.5], colors="cyan", linewidths=1)
        axis.axis("off")
figure.tight_layout()

# %%
# ``reslink.explain`` also draws a panel with all maps for each image:
figure, axis = plt.subplots(figsize=(9, 4))
axis.imshow(Image.open(out / explanations[0].panel))
axis.axis("off")
figure.tight_layout()
