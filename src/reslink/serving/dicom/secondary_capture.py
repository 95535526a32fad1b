"""Secondary capture: a picture of the prediction with slices, attention maps and a research banner."""

from __future__ import annotations

import textwrap
from typing import Final

import numpy as np
from highdicom import sc
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom import Dataset

from reslink import __version__
from reslink.bundles.onnx_graph import CAM
from reslink.explain.display import MIN_ATTENTION_SPAN, display_image, visible_pixels
from reslink.explain.overlay import overlay
from reslink.imaging.orientation import Edges
from reslink.serving.dicom.classify import SeriesResult
from reslink.serving.dicom.identifiers import BANNER, ascii_value, equipment_attributes, identification_attributes

_TILE: Final = 320
_GAP: Final = 16
_MAX_SLICES: Final = 3
_WIDTH: Final = _MAX_SLICES * _TILE + (_MAX_SLICES + 1) * _GAP
_TEXT, _MUTED, _BACKGROUND, _WARNING = (232, 234, 237), (170, 178, 188), (17, 20, 24), (176, 0, 32)
_EDGE_PLACES: Final = (
    *((5, _TILE // 2, "lm"), (_TILE - 5, _TILE // 2, "rm")),
    *((_TILE // 2, 5, "mt"), (_TILE // 2, _TILE - 5, "mb")),
)
"""Places and anchors of the sides of the patient in a tile: left, right, top, bottom."""
_ALERT: Final = (255, 138, 128)


def secondary_capture(result: SeriesResult) -> Dataset:
    """Returns the picture as a color secondary capture.

    Args:
        result: The predictions for the series.
    """
    sources = [result.series.headers[result.series.selected[i]] for i in result.prediction.used]
    image = sc.SCImage.from_ref_dataset(
        ref_dataset=sources[0],
        pixel_array=draw(result),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **identification_attributes(result, "picture"),
        **equipment_attributes(result.model),
    )
    image.PatientOrientation = []  # the picture shows several slices
    image.ConversionType = "WSD"
    burned_in = any(str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES" for header in sources)
    image.BurnedInAnnotation = "YES" if burned_in else "NO"  # the text of the picture names the model, never the patient
    image.BodyPartExamined = "HEAD"
    image.ImageComments = ascii_value(BANNER)
    image.DerivationDescription = ascii_value(f"slices and attention, {BANNER}", 1024)
    image.SourceImageSequence = [_reference(header) for header in sources]
    return image


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def draw(result: SeriesResult) -> NDArray[np.uint8]:
    """Returns the picture, (H, W, 3) uint8: banner, prediction, and up to three slices with and without their map."""
    lines = _footer_lines(result)
    top, footer = 150, 24 + 20 * len(lines)
    rows = 1 if result.maps is None else 2
    height = top + rows * (_TILE + _GAP) + 24 + footer + 40
    page = Picture.new("RGB", (_WIDTH, height), _BACKGROUND)
    pen = ImageDraw.Draw(page)
    _draw_banner(pen, 0)
    _draw_banner(pen, height - 40)
    _draw_heading(pen, result)
    for column, index in enumerate(result.prediction.used[:_MAX_SLICES]):
        x = _GAP + column * (_TILE + _GAP)
        pen.text((x, top - 24), _caption(result, index), _TEXT, _font(15))
        for row, tile in enumerate(_tiles(result, index)):
            page.paste(tile, (x, top + row * (_TILE + _GAP)))
    for number, line in enumerate(lines):
        pen.text((_GAP, height - 40 - footer + 20 * number), line, _MUTED, _font(14))
    return np.array(page)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_banner(pen: ImageDraw.ImageDraw, y: int) -> None:
    pen.rectangle((0, y, _WIDTH, y + 40), fill=_WARNING)
    pen.text((_WIDTH // 2, y + 20), BANNER, (255, 255, 255), _font(22), anchor="mm")


def _draw_heading(pen: ImageDraw.ImageDraw, result: SeriesResult) -> None:
    prediction = result.prediction
    label, score_class = ascii_value(prediction.answer), ascii_value(prediction.score_class)
    interval = "no interval" if prediction.ci_low is None else f"95 % CI {prediction.ci_low:.2f} to {prediction.ci_high:.2f}"
    abstention = "   the model abstains" if prediction.abstain else ""
    if result.series.incomplete:
        pen.text((_WIDTH - _GAP, 50), "INCOMPLETE SERIES", _ALERT, _font(28), anchor="ra")
    probability = f"P({score_class}) = {prediction.score:.2f}, {interval}; preliminary, not verified"
    pen.text((_GAP, 50), f"{label}{abstention}", _TEXT, _font(28))
    pen.text((_GAP, 92), probability, _TEXT, _font(18))


def _caption(result: SeriesResult, index: int) -> str:
    score_class, attention = result.prediction.score_class, result.prediction.attention
    number, total = result.series.selected[index] + 1, len(result.series.slices)
    if attention is not None:
        return f"slice {number} of {total}: weight {attention[index]:.2f}"
    probability = (result.slice_predictions[index].probabilities or {})[score_class]
    return f"slice {number} of {total}: P({ascii_value(score_class, 16)}) = {probability:.2f}"


def _tiles(result: SeriesResult, index: int) -> list[Picture.Image]:
    """Returns the slice and, with a map, the slice below its map."""
    image = result.series.slices[result.series.selected[index]]
    gray = display_image(result.model.classifier.bundle.preprocess, image)
    tiles = [np.repeat(gray[..., None], 3, axis=2)]
    if result.maps is not None and result.field_of_view is not None:
        heat = result.maps[index]
        inside = result.field_of_view[index] & visible_pixels(result.model.classifier.bundle.preprocess, image)
        is_attention = result.model.map_name != CAM
        low = heat[inside].min() if is_attention and inside.any() else 0
        drawn = np.where(inside, heat - low, 0).astype(np.float32)
        tiles.append(overlay(gray, drawn, min_span=MIN_ATTENTION_SPAN if is_attention else 0.0))
    spacing = image.spacing or (1.0, 1.0)
    return [_square_tile(tile, (spacing[0], spacing[1]), image.edges) for tile in tiles]


def _square_tile(pixels: NDArray[np.uint8], spacing: tuple[float, float], edges: Edges | None) -> Picture.Image:
    """Returns a square tile with the image in its center, scaled by the pixel spacing, and the sides of the patient."""
    height, width = pixels.shape[0] * spacing[0], pixels.shape[1] * spacing[1]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = Picture.new("RGB", (_TILE, _TILE))
    tile.paste(
        Picture.fromarray(pixels).resize(size, Picture.Resampling.BICUBIC), ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2)
    )
    pen = ImageDraw.Draw(tile)
    for letter, (x, y, anchor) in zip(edges or "", _EDGE_PLACES, strict=False):
        pen.text((x, y), letter, _TEXT, _font(16), anchor=anchor, stroke_width=1, stroke_fill=(0, 0, 0))
    return tile


def _footer_lines(result: SeriesResult) -> list[str]:
    model, prediction = result.model, result.prediction
    threshold = model.classifier.bundle.decision.threshold
    fitted_on = "single slices" if prediction.attention is None else "series"
    by_label = f"thresholds by label, of {fitted_on}" if prediction.by_label else "most probable class"
    rule = by_label if threshold is None else f"threshold {threshold:.3f} of {fitted_on}"
    interval = f"Interval: {prediction.interval}; it covers the choice of slices, not errors of the model"
    map_name = "no map" if model.map_name is None else model.map_name.replace("_", " ")
    texts = [
        f"Model {ascii_value(model.name)}, weights {model.weights[:12]}, reslink {__version__}; {rule}",
        f"Rule: {prediction.rule}",
        interval if prediction.attention is None else prediction.interval,
        f"Color: {map_name}, bright = high; it shows what the network used, not a lesion",
    ]
    texts += [f"The model abstains: {'; '.join(prediction.reasons)}"] if prediction.abstain else []
    texts += [
        f"{name}: {'no answer' if one.abstain else one.label}, P = {one.score:.2f}"
        + ("" if one.ci_low is None else f" (95 % CI {one.ci_low:.2f} to {one.ci_high:.2f})")
        for name, one in (prediction.by_label or {}).items()
    ]
    texts += [f"Note: {note}" for note in result.series.notes]
    return [line for text in texts for line in textwrap.wrap(ascii_value(text, 1024), 130)]
