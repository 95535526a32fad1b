"""The picture of an answer as a secondary capture: slices, attention over them, and the banner, burned in."""

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
from reslink.explain.display import GATE_SPAN, original
from reslink.explain.overlay import overlay
from reslink.serving.dicom.classify import Answer
from reslink.serving.dicom.results import BANNER, identification, plain, software

_TILE: Final = 320
_GAP: Final = 16
_MOST: Final = 3
_WIDTH: Final = _MOST * _TILE + (_MOST + 1) * _GAP
_INK, _SOFT, _PAPER, _WARNING = (232, 234, 237), (170, 178, 188), (17, 20, 24), (176, 0, 32)


def capture(answer: Answer) -> Dataset:
    """Returns the picture as a secondary capture in colour.

    Args:
        answer: The answer.
    """
    header = answer.series.headers[answer.series.chosen[answer.study.used[0]]]
    made = sc.SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=draw(answer),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **identification(answer, "picture"),
        **software(answer.model),
    )
    made.PatientOrientation = []  # several slices on one picture
    made.ConversionType = "WSD"
    made.BurnedInAnnotation = "NO"  # the letters name the model, never the patient
    made.BodyPartExamined = "HEAD"
    made.ImageComments = plain(BANNER)
    made.DerivationDescription = plain(f"slices and attention, {BANNER}", 1024)
    made.SourceImageSequence = [_reference(answer.series.headers[answer.series.chosen[i]]) for i in answer.study.used]
    return made


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def draw(answer: Answer) -> NDArray[np.uint8]:
    """Returns the picture, (H, W, 3) uint8: a banner, the answer, the slices that make it with and without the map."""
    shown = answer.study.used[:_MOST]
    lines = _foot(answer)
    top, foot = 150, 24 + 20 * len(lines)
    rows = 1 if answer.maps is None else 2
    height = top + rows * (_TILE + _GAP) + 24 + foot + 40
    page = Picture.new("RGB", (_WIDTH, height), _PAPER)
    pen = ImageDraw.Draw(page)
    _banner(pen, 0)
    _banner(pen, height - 40)
    _heading(pen, answer)
    for column, index in enumerate(shown):
        x = _GAP + column * (_TILE + _GAP)
        pen.text((x, top - 24), _caption(answer, index), _INK, _font(15))
        for row, tile in enumerate(_tiles(answer, index)):
            page.paste(tile, (x, top + row * (_TILE + _GAP)))
    for number, line in enumerate(lines):
        pen.text((_GAP, height - 40 - foot + 20 * number), line, _SOFT, _font(14))
    return np.array(page)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _banner(pen: ImageDraw.ImageDraw, y: int) -> None:
    pen.rectangle((0, y, _WIDTH, y + 40), fill=_WARNING)
    pen.text((_WIDTH // 2, y + 20), BANNER, (255, 255, 255), _font(22), anchor="mm")


def _heading(pen: ImageDraw.ImageDraw, answer: Answer) -> None:
    study = answer.study
    interval = "no interval" if study.ci_low is None else f"95 % interval {study.ci_low:.2f} to {study.ci_high:.2f}"
    abstains = "   the model abstains" if study.abstain else ""
    pen.text((_GAP, 50), f"{plain(study.label)}{abstains}", _INK, _font(28))
    pen.text((_GAP, 92), f"P({plain(study.about)}) = {study.score:.2f}, {interval}; preliminary, not verified", _INK, _font(18))


def _caption(answer: Answer, index: int) -> str:
    value = (answer.predictions[index].probabilities or {})[answer.study.about]
    place = answer.series.chosen[index] + 1
    return f"slice {place} of {len(answer.series.slices)}: P({plain(answer.study.about, 16)}) = {value:.2f}"


def _tiles(answer: Answer, index: int) -> list[Picture.Image]:
    """Returns the slice, and the slice under its map where there is one."""
    image = answer.series.slices[answer.series.chosen[index]]
    grey = original(answer.model.classifier.bundle.preprocess, image)
    tiles = [np.repeat(grey[..., None], 3, axis=2)]
    if answer.maps is not None and answer.seen is not None:
        heat, seen = answer.maps[index], answer.seen[index]
        gates = answer.model.map_name != CAM
        shown = np.where(seen, heat - (heat[seen].min() if gates and seen.any() else 0), 0).astype(np.float32)
        tiles.append(overlay(grey, shown, least=GATE_SPAN if gates else 0.0))
    spacing = image.spacing or (1.0, 1.0)
    return [_fitted(tile, (spacing[0], spacing[1])) for tile in tiles]


def _fitted(pixels: NDArray[np.uint8], spacing: tuple[float, float]) -> Picture.Image:
    """Returns a square tile with the picture in its middle, true to the size of its pixels."""
    height, width = pixels.shape[0] * spacing[0], pixels.shape[1] * spacing[1]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = Picture.new("RGB", (_TILE, _TILE))
    tile.paste(
        Picture.fromarray(pixels).resize(size, Picture.Resampling.BICUBIC), ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2)
    )
    return tile


def _foot(answer: Answer) -> list[str]:
    model, study = answer.model, answer.study
    threshold = model.classifier.bundle.decision.threshold
    rule = "most probable class" if threshold is None else f"threshold {threshold:.3f} of single slices"
    shown = "no map" if model.map_name is None else model.map_name.replace("_", " ")
    texts = [
        f"Model {plain(model.name)}, weights {model.weights[:12]}, reslink {__version__}; {rule}",
        f"Rule: {study.rule}",
        f"Interval: {study.interval}; which slices were looked at, not errors of the model",
        f"Colour: {shown}, bright = high; it shows where the network looks, not a lesion",
    ]
    texts += [f"The model abstains: {'; '.join(study.reasons)}"] if study.abstain else []
    texts += [f"Note: {note}" for note in answer.series.notes]
    return [line for text in texts for line in textwrap.wrap(plain(text, 1024), 130)]
