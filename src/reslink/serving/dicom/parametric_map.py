"""The attention of a network over a series as a DICOM parametric map (PS3.3 A.75)."""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom import PixelMeasuresSequence, VOILUTTransformation, pm
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from reslink.bundles.onnx_graph import CAM
from reslink.imaging.dicom.geometry import distances, plane_of
from reslink.serving.dicom.classify import Answer
from reslink.serving.dicom.results import BANNER, identification, plain, software, uid_from

STEPS: Final = 65535
"""Stored values are whole numbers from 0 to this, of even steps from the lowest to the highest value of the map."""

_EXPLAINED: Final = {
    "first_attention": "gate of the first area attention",
    "final_attention": "gate of the final area attention",
    CAM: "class activation",
}


def attention_map(answer: Answer) -> Dataset:
    """Returns the map: one frame for each chosen slice, on the slice's own pixels, in its own plane.

    Pixels that the network did not see have the lowest value of the map.

    Args:
        answer: One with maps.
    """
    series = answer.series
    headers = [_placed(series.headers[i]) for i in series.chosen]
    assert answer.maps is not None and answer.seen is not None  # noqa: S101, PT018  (the caller looked)
    stored, slope, low = quantised(answer.maps, answer.seen)
    name = answer.model.map_name or ""
    mapping = pm.RealWorldValueMapping(
        lut_label=plain(name, 16),
        lut_explanation=plain(_EXPLAINED.get(name, name)),
        unit=codes.UCUM.NoUnits,
        value_range=(0, STEPS),
        slope=slope,
        intercept=low,
        quantity_definition=codes.DCM.ClassActivation if name == CAM else codes.DCM.Saliency,
    )
    made = pm.ParametricMap(
        source_images=headers,
        pixel_array=stored,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=STEPS / 2, window_width=float(STEPS))],
        pixel_measures=_measures(headers),
        content_label="ATTENTION",
        content_description=plain(f"{BANNER}: {answer.model.name}"),
        content_qualification="RESEARCH",
        **identification(answer, "map"),
        **software(answer.model),
    )
    made.BodyPartExamined = "HEAD"
    return made


def quantised(maps: NDArray[np.float32], seen: NDArray[np.bool_]) -> tuple[NDArray[np.uint16], float, float]:
    """Returns stored values, slope and intercept of a map: ``value = slope · stored + intercept``.

    Args:
        maps: (n, H, W) finite.
        seen: (n, H, W) where the network saw something; elsewhere the stored value is 0.

    Returns:
        (n, H, W) uint16; the slope, above 0; the intercept. A value that was seen comes back to within half a step.
    """
    there = maps[seen]
    low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
    slope = (high - low) / STEPS if high > low else 1 / STEPS
    stored = np.rint((maps.astype(np.float64) - low) / slope).clip(0, STEPS)
    return np.where(seen, stored, 0).astype(np.uint16), slope, low


def _placed(header: Dataset) -> Dataset:
    """Returns a header with a frame of reference: its own, or one that follows from the series where it has none."""
    if header.get("FrameOfReferenceUID"):
        return header
    copy = Dataset()
    copy.update(header)
    copy.FrameOfReferenceUID = uid_from("frame", header.SeriesInstanceUID)
    copy.PositionReferenceIndicator = ""
    return copy


def _measures(headers: list[Dataset]) -> PixelMeasuresSequence:
    """Returns spacing and thickness; a thickness that is not stated is the distance between slices, or 1 mm for one slice."""
    planes = [plane for plane in map(plane_of, headers) if plane is not None]
    gaps = np.abs(np.diff(distances(planes))) if len(planes) > 1 else np.ones(1)
    step = float(f"{float(np.median(gaps)):.6g}")
    thickness = float(headers[0].get("SliceThickness") or step)
    return PixelMeasuresSequence(
        pixel_spacing=[float(v) for v in headers[0].PixelSpacing],
        slice_thickness=thickness,
        spacing_between_slices=step if len(planes) > 1 else None,
    )
