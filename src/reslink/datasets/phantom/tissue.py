"""Tissue values of the phantom: Hounsfield units for CT, spin-echo signal for MR.

CT numbers are within the published ranges (Buzug, *Computed Tomography*, 2008, p. 475; Kamalian et al., *Handb. Clin. Neurol.*
135:3, 2016): gray matter 37 to 41, white matter 20 to 34, CSF 0 to 15, blood 50 to 75, bone 300 to 2000, fat −120 to −50,
air −1000. Contrast agent lifts an enhancing rim to 65 to 73. MR relaxation times at 3 T follow Wansapura et al., *J. Magn.
Reson. Imaging* 9:531, 1999 (gray, white), Lin et al., ibid. 13:898, 2001 (CSF) and de Bazelaire et al., *Radiology* 230:652,
2004 (fat, muscle); those of edema and tumor are typical values between white matter and CSF.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

Sequence = Literal["CT", "T1", "T2", "FLAIR"]

# Tissue: mean and half-width of the uniform distribution between patients, in HU.
_CT: dict[str, tuple[float, float]] = {
    "air": (-1000.0, 0.0),
    "skin": (54.0, 11.0),
    "fat": (-90.0, 10.0),
    "muscle": (59.0, 9.0),
    "table": (1150.0, 180.0),
    "diploe": (560.0, 120.0),
    "dense_bone": (1500.0, 200.0),
    "csf": (7.0, 2.5),
    "gray": (39.0, 1.2),
    "nuclei": (39.0, 1.2),
    "white": (28.5, 1.8),
    "cerebellum": (34.5, 1.5),
    "falx": (57.0, 7.0),
    "blood": (66.0, 5.0),
    "calcium": (220.0, 90.0),
    "gliosis": (16.5, 2.5),
    "edema": (20.5, 1.5),
    "rim": (69.0, 4.0),
    "necrosis": (11.0, 3.0),
    "solid": (42.0, 2.0),
    "infiltrate": (18.0, 2.0),
    "headrest": (30.0, 60.0),
}


class Relaxation(NamedTuple):
    """Proton density (water = 1), T1 and T2 in ms."""

    density: float
    t1: float
    t2: float


_MR: dict[str, Relaxation] = {
    "air": Relaxation(0.0, 1000.0, 50.0),
    "skin": Relaxation(0.70, 900.0, 45.0),
    "fat": Relaxation(0.90, 380.0, 68.0),
    "muscle": Relaxation(0.75, 1400.0, 32.0),
    "table": Relaxation(0.06, 1000.0, 20.0),
    "diploe": Relaxation(0.45, 500.0, 55.0),
    "dense_bone": Relaxation(0.06, 1000.0, 20.0),
    "csf": Relaxation(1.00, 4200.0, 1500.0),
    "gray": Relaxation(0.82, 1331.0, 105.0),
    "nuclei": Relaxation(0.80, 1240.0, 92.0),
    "white": Relaxation(0.69, 832.0, 79.6),
    "cerebellum": Relaxation(0.79, 1180.0, 96.0),
    "falx": Relaxation(0.45, 1000.0, 35.0),
    "blood": Relaxation(0.70, 700.0, 62.0),
    "calcium": Relaxation(0.20, 900.0, 25.0),
    "gliosis": Relaxation(0.80, 1250.0, 118.0),
    "edema": Relaxation(0.82, 1300.0, 122.0),
    "rim": Relaxation(0.80, 640.0, 112.0),
    "necrosis": Relaxation(0.88, 1700.0, 150.0),
    "solid": Relaxation(0.82, 1050.0, 118.0),
    "infiltrate": Relaxation(0.84, 1400.0, 128.0),
    "headrest": Relaxation(0.0, 1000.0, 50.0),
}

MR_SCALE = 1000.0
"""Stored MR intensity of white matter, before bias and gain."""


def _spin_echo(tissue: Relaxation, tr: float, te: float, ti: float | None) -> float:
    """Signal of a (inversion recovery) spin echo, magnitude; times in ms."""
    decay = math.exp(-te / tissue.t2)
    if ti is None:
        return tissue.density * (1.0 - math.exp(-tr / tissue.t1)) * decay
    recovery = 1.0 - 2.0 * math.exp(-ti / tissue.t1) + math.exp(-tr / tissue.t1)
    return tissue.density * abs(recovery) * decay


def _protocol(sequence: Sequence, rng: np.random.Generator) -> tuple[float, float, float | None]:
    """Draws repetition, echo and inversion time in ms, which differ between scanners."""
    if sequence == "T1":
        return float(rng.uniform(480, 650)), float(rng.uniform(9, 14)), None
    if sequence == "T2":
        return float(rng.uniform(3800, 5200)), float(rng.uniform(85, 105)), None
    return float(rng.uniform(8600, 9400)), float(rng.uniform(110, 130)), float(rng.uniform(2480, 2560))


def tissue_values(sequence: Sequence, rng: np.random.Generator) -> dict[str, float]:
    """Draws the value of each tissue for one patient on one scanner.

    Args:
        sequence: ``CT`` for Hounsfield units, else the MR contrast.
        rng: The random generator of the patient.

    Returns:
        Tissue name to HU (CT), or to intensity with white matter at ``MR_SCALE`` (MR).
    """
    if sequence == "CT":
        return {name: mean + spread * float(rng.uniform(-1, 1)) for name, (mean, spread) in _CT.items()}
    tr, te, ti = _protocol(sequence, rng)
    signal = {name: _spin_echo(tissue, tr, te, ti) for name, tissue in _MR.items()}
    white = signal["white"]
    return {name: MR_SCALE * value / white for name, value in signal.items()}
