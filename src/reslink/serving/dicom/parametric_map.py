"""Attention or class activation maps of a series as a DICOM parametric map (PS3.3 A.75)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom import PixelMeasuresSequence, VOILUTTransformation, pm
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from reslink.bundles.onnx_graph import CAM
from reslink.imaging.dicom.geometry import distances_along_normal, slice_plane
from reslink.serving.dicom.classify import SeriesResult
from reslink.serving.dicom.completeness import positive_number
from reslink.serving.dicom.identifiers import BANNER, ascii_value, derive_uid, equipment_attributes, identification_attributes
from reslink.serving.dicom.series import Series

STEPS: Final = 65535
"""Stored values are integers from 0 to this, linear from the lowest to the highest value of the map."""

_EXPLANATIONS: Final = {
    "first_attention": "attention weights of the first area attention",
    "final_attention": "attention weights of the final area attention",
    CAM: "class activation",
}


def parametric_map(result: SeriesResult) -> Dataset:
    """Returns the map: one frame per selected slice, with the stored pixel grid and plane of the slice.

    Pixels outside the network input have the lowest value of the map.

    Args:
        result: Predictions with maps.
    """
    series = result.series
    headers = _map_sources(series)
    assert result.maps is not None and result.field_of_view is not None  # noqa: S101, PT018  (checked by the caller)
    first = series.slices[0]  # all slices of a series are turned in the same way
    stored, slope, low = quantize(first.to_stored(result.maps), first.to_stored(result.field_of_view))
    name = result.model.map_name or ""
    mapping = pm.RealWorldValueMapping(
        lut_label=ascii_value(name, 16),
        lut_explanation=ascii_value(_EXPLANATIONS.get(name, name)),
        unit=codes.UCUM.NoUnits,
        value_range=(0, STEPS),
        slope=slope,
        intercept=low,
        quantity_definition=codes.DCM.ClassActivation if name == CAM else codes.DCM.Saliency,
    )
    dataset = pm.ParametricMap(
        source_images=headers,
        pixel_array=stored,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=STEPS / 2, window_width=float(STEPS))],
        pixel_measures=_pixel_measures(headers),
        content_label="ATTENTION",
        content_description=ascii_value(f"{BANNER}: {result.model.name}"),
        content_qualification="RESEARCH",
        **identification_attributes(result, "map"),
        **equipment_attributes(result.model),
    )
    dataset.BodyPartExamined = "HEAD"
    return dataset


def quantize(maps: NDArray[np.float32], field_of_view: NDArray[np.bool_]) -> tuple[NDArray[np.uint16], float, float]:
    """Returns stored values, slope and intercept of a map: ``value = slope · stored value + intercept``.

    Args:
        maps: (n, H, W) finite.
        field_of_view: (n, H, W) bool; outside, the stored value is 0.

    Returns:
        (n, H, W) uint16; the slope, above 0; the intercept. The error of a value is at most half a step.
    """
    values = maps[field_of_view]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    slope = (high - low) / STEPS if high > low else 1 / STEPS
    stored = np.rint((maps.astype(np.float64) - low) / slope).clip(0, STEPS)
    return np.where(field_of_view, stored, 0).astype(np.uint16), slope, low


def _map_sources(series: Series) -> list[Dataset]:
    """Returns headers of the selected slices with the attributes that place a map.

    A missing frame of reference is derived from the series, a missing thickness is the distance between slices (1 mm for one
    slice), and the spacing may come from another attribute than Pixel Spacing.
    """
    first, image = series.headers[0], series.slices[0]
    frame = next((uid for header in series.headers if (uid := header.get("FrameOfReferenceUID"))), None)
    spacing = list(image.spacing or ())
    is_transposed = image.orientation is not None and image.orientation.transposed
    sources = []
    for header in (series.headers[i] for i in series.selected):
        source = Dataset()
        source.update(header)
        source.FrameOfReferenceUID = frame or derive_uid("frame", first.SeriesInstanceUID)
        source.PositionReferenceIndicator = header.get("PositionReferenceIndicator") or ""
        source.PixelSpacing = [DSfloat(value, auto_format=True) for value in (spacing[::-1] if is_transposed else spacing)]
        source.SliceThickness = positive_number(header, "SliceThickness") or _slice_distance(series.headers)
        sources.append(source)
    return sources


def _pixel_measures(sources: Sequence[Dataset]) -> PixelMeasuresSequence:
    return PixelMeasuresSequence(
        pixel_spacing=[float(value) for value in sources[0].PixelSpacing],
        slice_thickness=float(sources[0].SliceThickness),
        spacing_between_slices=_slice_distance(sources) if len(sources) > 1 else None,
    )


def _slice_distance(headers: Sequence[Dataset]) -> float:
    """Returns the median distance between neighboring slices in millimeters; 1 for one slice."""
    planes = [plane for plane in map(slice_plane, headers) if plane is not None]
    gaps = np.abs(np.diff(distances_along_normal(planes))) if len(planes) > 1 else np.ones(1)
    return float(f"{float(np.median(gaps)):.6g}")
