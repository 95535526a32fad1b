"""The arrays of the phantom: tissues, lesions, mass effect, and that no simple statistic tells the classes apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from reslink.datasets.phantom import lesion as phantom_lesion
from reslink.datasets.phantom import writers
from reslink.datasets.phantom.cohort import Patient, PhantomSettings, plan_cohort, render_patient, render_slice
from reslink.datasets.phantom.render import TISSUES, RenderedSlice
from reslink.datasets.phantom.tissue import HU_RANGES, Sequence, tissue_values
from reslink.errors import UsageError


@pytest.fixture(scope="module")
def healthy() -> list[Patient]:
    return [render_patient(11, index, tumor=False, slices=2) for index in range(1, 11)]


@pytest.fixture(scope="module")
def ill() -> list[Patient]:
    return [render_patient(11, index, tumor=True) for index in range(1, 13)]


@pytest.fixture(scope="module")
def bleeding() -> list[Patient]:
    found = (render_patient(11, index, tumor=True, slices=1) for index in range(1, 100))
    return list(itertools.islice((p for p in found if p.lesion is not None and p.lesion.kind == "hemorrhagic"), 3))


def _pixels(patients: list[Patient], *names: str) -> NDArray[np.float32]:
    numbers = [TISSUES.index(name) for name in names]
    return np.concatenate([s.pixels[np.isin(s.tissue, numbers)] for p in patients for s in p.slices])


@pytest.mark.parametrize(
    ("range_name", "names"),
    [
        ("gray", ("nuclei",)),
        ("white", ("white",)),
        ("csf", ("csf",)),
        ("blood", ("blood",)),
        ("bone", ("table",)),
        ("bone", ("diploe",)),
        ("fat", ("fat",)),
    ],
)
def test_tissue_is_within_its_published_range(
    healthy: list[Patient], bleeding: list[Patient], range_name: str, names: tuple[str, ...]
) -> None:
    found = _pixels(healthy + bleeding, *names)
    low, high = HU_RANGES[range_name]
    assert len(found) >= 100
    assert low <= found.mean() <= high


def test_every_patients_tissue_values_are_within_the_published_ranges(rng: np.random.Generator) -> None:
    alias = {"table": "bone", "diploe": "bone", "dense_bone": "bone", "nuclei": "gray"}
    for _ in range(50):
        for name, value in tissue_values("CT", rng).items():
            if (known := HU_RANGES.get(alias.get(name, name))) is not None:
                assert known[0] <= value <= known[1], name


def test_air_and_bone_frame_the_head(healthy: list[Patient]) -> None:
    plane = healthy[0].slices[0]
    assert plane.pixels[:8, :8].mean() < -950
    assert plane.pixels.max() > 800
    assert plane.pixels.min() >= -1024


def _parenchyma(plane: RenderedSlice) -> NDArray[np.bool_]:
    return np.isin(plane.tissue, [TISSUES.index(name) for name in ("gray", "white", "nuclei")])


@pytest.mark.parametrize("sequence", ["CT", "T1", "T2", "FLAIR"])
def test_lesion_contrast_to_noise_is_at_most_three(sequence: Sequence) -> None:
    for index in range(1, 9):
        patient = render_patient(11, index, tumor=True, sequence=sequence, slices=1)
        plane = patient.slices[0]
        assert 0 < plane.contrast_to_noise <= phantom_lesion.MAX_CONTRAST_TO_NOISE + 0.01
        away = scipy.ndimage.distance_transform_edt(~plane.mask) * plane.spacing
        near = plane.brain & (away > 2) & (away < 10) & (plane.tissue != TISSUES.index("csf"))
        fluid = _fluid_free(plane, patient)
        for around in (near & fluid, _parenchyma(plane) & (away > 10)):
            if around.sum() < 100:
                continue
            ratio = abs(plane.clean[plane.mask].mean() - plane.clean[around].mean()) / plane.noise_sd
            assert ratio <= 3, (index, patient.lesion)


def _fluid_free(plane: RenderedSlice, patient: Patient) -> NDArray[np.bool_]:
    """Pixels that hold gray or white matter or oedema, and no CSF or bone, judged by their value alone."""
    tissue = [patient.values["gray"], patient.values["white"], patient.values["white"]]
    tissue[2] += np.clip(patient.values["edema"] - tissue[1], -2.4 * plane.noise_sd, 2.4 * plane.noise_sd)
    spare = 0.5 * plane.noise_sd
    return np.asarray((plane.clean > min(tissue) - spare) & (plane.clean < max(tissue) + spare))


def test_noise_in_the_brain_has_the_stated_deviation(healthy: list[Patient]) -> None:
    for patient in healthy[:4]:
        plane = patient.slices[0]
        other = render_slice(11, 1 + healthy.index(patient), level=plane.level)
        flat = (plane.tissue == TISSUES.index("white")) & (other.tissue == TISSUES.index("white"))
        spread = (plane.pixels - other.pixels)[flat].std() / np.sqrt(2)
        assert spread == pytest.approx(plane.noise_sd, rel=0.12)


def test_mask_is_in_the_brain_on_every_slice(ill: list[Patient]) -> None:
    for patient in ill:
        for plane in patient.slices:
            assert plane.mask.sum() >= 30
            assert not (plane.mask & ~plane.brain).any()
            assert patient.lesion is not None


def test_lesions_are_12_to_35_mm_wide(ill: list[Patient]) -> None:
    for patient in ill:
        plane = patient.slices[1]
        diameter = 2 * np.sqrt(plane.mask.sum() * plane.spacing**2 / np.pi)
        assert 12 <= diameter <= 40


def test_healthy_slices_have_no_mask(healthy: list[Patient]) -> None:
    assert not any(plane.mask.any() or plane.contrast_to_noise for patient in healthy for plane in patient.slices)


def test_a_healthy_patient_is_the_same_head_without_the_lesion() -> None:
    with_it, without = (render_patient(2, 6, tumor=flag, slices=1) for flag in (True, False))
    assert with_it.levels == without.levels
    assert with_it.head.age == without.head.age
    difference = np.abs(with_it.slices[0].clean - without.slices[0].clean)
    assert difference[with_it.slices[0].mask].mean() > 3
    assert difference[~with_it.slices[0].brain].max() < 3  # within 1 mm of the inner table
    away = scipy.ndimage.distance_transform_edt(~with_it.slices[0].brain)
    assert not difference[away > 3].any()


def test_mass_effect_moves_the_midline_away_from_the_lesion() -> None:
    moved = []
    for index in range(1, 13):
        ill, well = (render_patient(4, index, tumor=flag, slices=1) for flag in (True, False))
        assert ill.lesion is not None
        if abs(ill.lesion.center[0]) < 18 + ill.lesion.radius:  # mm: the lesion itself stays clear of the search
            moved.append(-np.sign(ill.lesion.center[0]) * _midline_shift(ill, well))
    assert len(moved) >= 4
    assert np.mean(np.array(moved) > 0) >= 0.8
    assert np.mean(moved) > 1.0


def _midline_shift(ill: Patient, well: Patient) -> float:
    """Median shift in mm of the pattern around the midline, over the rows at the lesion, by template matching."""
    one, other, spacing = ill.slices[0].clean, well.slices[0].clean, ill.slices[0].spacing
    assert ill.lesion is not None
    middle = (one.shape[0] - 1) / 2
    shifts = []
    for y in np.arange(-15, 16, 3) + ill.lesion.center[1]:
        front = y * ill.head.scale[1]
        row = round(middle - (front * np.cos(ill.head.turn) + ill.head.shift[1]) / spacing)
        column = round(middle + (-front * np.sin(ill.head.turn) + ill.head.shift[0]) / spacing)
        template = other[row - 1 : row + 2, column - 9 : column + 10]
        errors = [
            np.square(one[row - 1 : row + 2, column - 9 + move : column + 10 + move] - template).sum() for move in range(-9, 10)
        ]
        shifts.append((int(np.argmin(errors)) - 9) * spacing)
    return float(np.median(shifts))


def test_displacement_stops_at_the_skull_and_points_outwards() -> None:
    lesion = phantom_lesion.draw_lesion(np.random.default_rng(3))
    x, y, z = (np.full(3, value, np.float32) for value in lesion.center)
    away = np.array([12, 25, 25], np.float32)
    points = phantom_lesion.Points(x + away, y, z)
    source = phantom_lesion.displace(points, lesion, np.array([30, 30, 0], np.float32))
    assert source.x[0] < points.x[0]
    assert source.x[1] < points.x[1]
    assert source.x[2] == points.x[2]


def test_beam_hardening_darkens_the_band_between_the_petrous_ridges() -> None:
    differences = []
    for index in range(1, 9):
        plane = render_slice(11, index, level=-27)
        error = plane.pixels - plane.clean
        bone = (plane.clean > 900) & scipy.ndimage.binary_erosion(plane.brain, iterations=8)
        rows = np.nonzero(bone.any(1) & (np.arange(len(bone)) > len(bone) / 2))[0]  # the petrous ridges lie behind the middle
        soft = scipy.ndimage.binary_erosion((plane.clean > 0) & (plane.clean < 80) & plane.brain, iterations=3)
        soft[:, : len(bone) // 2 - 15] = soft[:, len(bone) // 2 + 15 :] = False
        between, behind = soft.copy(), soft.copy()
        between[: rows[0]] = between[rows[-1] :] = False
        behind[: rows[-1] + 5] = False  # the cerebellum behind the ridges
        differences.append(error[between].mean() - error[behind].mean())
    assert np.mean(differences) < -2


def test_ventricles_are_visible_only_at_their_levels() -> None:
    for index in (1, 2, 3):
        low, high = (_central_fluid(render_slice(7, index, level=level)) for level in (12, 48))
        assert low > 50
        assert high < low / 5


def _central_fluid(plane: RenderedSlice) -> int:
    depth = scipy.ndimage.distance_transform_edt(plane.brain) * plane.spacing
    side = np.abs(np.arange(plane.mask.shape[1]) - plane.mask.shape[1] / 2) > 4
    return int(((plane.tissue == TISSUES.index("csf")) & (depth > 32) & side).sum())


@pytest.mark.parametrize(
    ("sequence", "order"), [("T1", "csf gray white"), ("T2", "white gray csf"), ("FLAIR", "csf white gray")]
)
def test_mr_contrasts_order_the_tissues(sequence: Sequence, order: str, rng: np.random.Generator) -> None:
    for _ in range(10):
        values = tissue_values(sequence, rng)
        found = [values[name] for name in order.split()]
        assert found == sorted(found)


def test_mr_background_is_rician_not_gaussian() -> None:
    plane = render_slice(3, 1, sequence="T2")
    corner = plane.pixels[:20, :20]
    assert corner.min() >= 0
    assert corner.mean() / corner.std() == pytest.approx(1.91, rel=0.15)  # Rayleigh: sqrt(pi / (4 - pi))


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
