"""Decide from the header whether a DICOM object is a slice of a head CT or MR that can be classified, or why not."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from pydicom import Dataset, uid
from pydicom.config import IGNORE

from reslink.imaging.dicom.contrast_agent import has_contrast_agent
from reslink.imaging.image import Modality
from reslink.imaging.spellings import WITH_CONTRAST

MANUFACTURER: Final = "reslink"
"""Manufacturer of all objects written by this package. They are never classified."""

MODALITIES: Final[dict[str, Modality]] = {uid.CTImageStorage: "CT", uid.MRImageStorage: "MR"}
"""Modality by SOP class of the single-slice objects that are classified."""

MULTI_FRAME_CLASSES: Final = (
    *(uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    *(uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
)
"""SOP classes of the objects that contain all slices of a series."""

_CLASS_MODALITIES: Final[dict[str, Modality]] = {
    **MODALITIES,
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
}

NON_IMAGE_CLASSES: Final = (
    *("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.", "1.2.840.10008.5.1.4.1.1.104."),
    *("1.2.840.10008.5.1.4.1.1.9.", "1.2.840.10008.5.1.4.1.1.131", "1.2.840.10008.5.1.4.1.1.66.1"),
    *("1.2.840.10008.5.1.4.1.1.66.2", "1.2.840.10008.5.1.4.1.1.66.5", "1.2.840.10008.5.1.4.1.1.66.6"),
    *("1.2.840.10008.5.1.4.1.1.67", "1.2.840.10008.5.1.4.1.1.4.2", "1.2.840.10008.5.1.4.38.", "1.2.840.10008.5.1.4.39."),
    *(f"1.2.840.10008.5.1.4.1.1.481.{number}" for number in (3, 4, 5, 6, 7, 8, 9)),
)
"""Beginnings of the SOP classes without pixels: reports, presentation states, key object selections, PDF, RT structures and
plans, waveforms, registrations, surfaces, spectra."""

HEAD_BODY_PARTS: Final = ("HEAD", "BRAIN", "SKULL")
"""Values of Body Part Examined of the series that are classified (PS3.16 annex L)."""

_HEAD_WORDS: Final = ("HEAD", "BRAIN", "SKULL", "CRANI", "CEREB", "NEURO", "ENCEPH", "KOPF", "HIRN", "CABEZA", "TESTA", "TETE")
"""Words in Body Part Examined as scanners write it, also in other languages."""

_NO_BODY_PART: Final = ("", "UNKNOWN", "OTHER", "UNSPECIFIED", "NONE", "N/A", "WHOLEBODY", "WHOLE BODY")

HEAD_CODES: Final = ("69536005", "12738006", "89546000", "T-D1100", "T-A0100", "T-11100")
"""Codes of head, brain and skull in an Anatomic Region Sequence (SNOMED CT and the older SRT)."""

NON_SLICE_IMAGE_TYPES: Final = (
    *("LOCALIZER", "SCOUT", "SCREEN SAVE", "PROJECTION IMAGE", "DOSE", "DOSE INFO", "MIP", "MINIP", "MOSAIC", "PRESTATE"),
    *("VOLUME RENDER", "VRT", "SURFACE", "3D RENDER", "FUSED", "FUSION", "SUBTRACTION", "MONITORING", "BOLUS"),
)
"""Values of Image Type of objects that are not slices of a head."""

MAP_IMAGE_TYPES: Final = (
    *("ADC", "EADC", "FA", "FRACTIONAL ANISOTROPY", "TENSOR", "DTI", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "PBP"),
    *("PERFUSION", "PERFUSION_MAP", "PERFUSION MAP", "RELCBF", "RELCBV", "RELMTT", "KTRANS", "T1 MAP", "T2 MAP", "T2_STAR MAP"),
    *("FIELD MAP", "FIELD_MAP", "PHASE MAP", "PHASE", "P", "VELOCITY", "VELOCITY MAP", "IODINE", "IODINE_MAP", "Z_EFF", "FMRI"),
)
"""Values of Image Type of maps that were computed from several images, and of phase images."""

_CONTRASTS: Final = {
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
    "PROTON_DENSITY": "PD",
    "FLUID_ATTENUATED": "FLAIR",
    "DIFFUSION": "DWI",
    "PERFUSION": "perfusion",
    "STIR": "STIR",
    "TOF": "angiography",
    "FLOW_ENCODED": "angiography",
}
"""Sequence by Acquisition Contrast."""

_SEQUENCE_WORDS: Final = {
    "FLAIR": r"flair|dark.?fluid",
    "DWI": r"dwi|diffusion|trace",
    "T2*": r"swi|t2\*|t2.?star|hemo",
    "T1": r"t1|mprage|bravo|spgr",
    "T2": r"t2(?!\*|.?star)",
    "PD": r"\bpd\b|_pd_",
}
"""Words in the names of series, by sequence."""

_T1_FLAIR: Final = r"t1w?[\s_-]?flair|t1\S*dark.?fluid"
"""Names of T1 FLAIR, whose contrast is T1."""

_OTHER_SEQUENCE: Final = (
    r"tof|(?<![a-z])(ce.?)?mr[av](?![a-z])|angio|venogra|(?<![a-z])pca?(?![a-z])|phase.?contrast|flow(?!.?comp)"
    r"|perf|(?<![a-z])(p?c?asl|dsc|dce)(?![a-z])|field|b[01].?map"
)
"""Words of angiography, phase contrast, perfusion and field maps, whose times are those of T1 or T2*."""

OTHER_BODY_PART: Final = "its header states another part of the body"


def exclusion_reason(
    sop_class: str, image_type: Sequence[str], manufacturer: str, sop_classes: Collection[str] = MODALITIES
) -> str | None:
    """Returns why an object is not a slice to classify; None if it may be one.

    Args:
        sop_class: SOP Class UID.
        image_type: Values of Image Type.
        manufacturer: Value of Manufacturer.
        sop_classes: Accepted SOP Class UIDs.
    """
    if manufacturer.strip().casefold() == MANUFACTURER:
        return "a result of this package"
    if sop_class not in sop_classes:
        name = uid.UID(sop_class, validation_mode=IGNORE).name  # the UID itself if it is unknown
        return f"not a CT or MR image ({'unknown SOP class' if name == sop_class else name})"
    types = [value.strip().upper().replace("_", " ") for value in image_type]
    non_slice = sorted(set(types).intersection(NON_SLICE_IMAGE_TYPES))
    if non_slice:
        return f"{non_slice[0].lower()}, not a slice"
    maps = sorted(set(types[2:]).intersection(name.replace("_", " ") for name in MAP_IMAGE_TYPES))
    return f"a computed map or phase image ({maps[0]}), not a slice" if maps else None


def header_exclusion_reason(header: Dataset, sop_classes: Collection[str] = MODALITIES) -> str | None:
    """Returns the result of :func:`exclusion_reason` for a header."""
    values = header.get("ImageType") or ()
    image_type = [str(v) for v in values] if isinstance(values, Sequence) and not isinstance(values, str) else [str(values)]
    sop_class, modality = str(header.get("SOPClassUID") or ""), stated_modality(header)
    if not sop_class and modality in MODALITIES.values():  # de-identified with too much zeal
        sop_class = next(name for name, stated in MODALITIES.items() if stated == modality)
    reason = exclusion_reason(sop_class, image_type, str(header.get("Manufacturer") or ""), sop_classes)
    expected = MODALITIES.get(sop_class)
    return reason or (f"its header states the modality {modality}" if expected and modality not in ("", expected) else None)


def stated_modality(header: Dataset) -> str:
    """Returns Modality in upper case, or the modality of the SOP class if it is missing; empty if neither is known."""
    stated = str(header.get("Modality") or "").strip().upper()
    return stated or _CLASS_MODALITIES.get(str(header.get("SOPClassUID") or "").strip(), "")


def is_head(header: Dataset) -> bool | None:
    """Whether a header states that an object shows a head; None if it states no body part."""
    stated = str(header.get("BodyPartExamined") or "").strip().upper()
    regions = header.get("AnatomicRegionSequence") or ()
    items = regions if isinstance(regions, Sequence) else ()
    codes = [str(item.get("CodeValue", "")) for item in items if isinstance(item, Dataset)]
    if is_other_body_part(stated):
        return False
    if stated not in _NO_BODY_PART or set(codes) & set(HEAD_CODES):
        return True
    return False if codes else None


def is_other_body_part(stated: str) -> bool:
    """Whether Body Part Examined is stated and is not the head."""
    name = stated.strip().upper()
    return name not in _NO_BODY_PART and ("NECK" in name or not any(word in name for word in _HEAD_WORDS))


def series_exclusion_reason(header: Dataset) -> str | None:
    """Returns why an object is not part of a series that can be classified; None if it may be. Volumes are accepted."""
    try:
        reason = header_exclusion_reason(header, (*MODALITIES, *MULTI_FRAME_CLASSES))
        return OTHER_BODY_PART if reason is None and is_head(header) is False else reason
    except Exception:  # noqa: BLE001 - pydicom raises many kinds of errors for a broken value; the pixels may still be valid
        return "its header is broken"


def is_without_pixels(sop_class: str) -> bool:
    """Whether objects of a SOP class have no pixels, such as reports, presentation states and RT structure sets."""
    return sop_class.startswith(NON_IMAGE_CLASSES)


def stated_sequence(header: Dataset) -> str | None:
    """Returns the contrast of an MR image: T1, T1C+, T2, FLAIR, PD, T2*, DWI and others; None if none is stated, or for CT.

    Acquisition Contrast of enhanced objects decides (PS3.3 C.8.13.3), else the times of the acquisition, else the words of the
    series. T1 is T1C+ after a contrast agent (:func:`has_contrast_agent`), and nothing is stated if the header hides the agent.
    Doubtful headers state nothing, nor do those of angiography, perfusion and field maps.
    """
    try:
        sequence = _sequence(header)
        return _t1_by_agent(header) if sequence == "T1" else sequence
    except Exception:  # noqa: BLE001 - as for series_exclusion_reason
        return None


def _sequence(header: Dataset) -> str | None:
    if stated_modality(header) != "MR":
        return None
    contrast = _CONTRASTS.get(str(header.get("AcquisitionContrast") or "").strip().upper())
    if contrast:
        return contrast
    words = f"{header.get('SeriesDescription') or ''} {header.get('ProtocolName') or ''}".lower()
    is_angiography = str(header.get("AngioFlag") or "").strip().upper() == "Y"
    if is_angiography or re.search(_OTHER_SEQUENCE, words):
        return None
    return _sequence_of_times(header) or _sequence_of_words(words)


def _t1_by_agent(header: Dataset) -> str | None:
    """Returns T1 or T1C+, or None for T1 of which the header does not state whether a contrast agent was given."""
    has_agent = has_contrast_agent(header)
    return None if has_agent is None else WITH_CONTRAST if has_agent else "T1"


def _sequence_of_times(header: Dataset) -> str | None:
    """Returns the contrast from echo, repetition and inversion time in milliseconds."""
    echo, repetition, inversion = (_number(header, name) for name in ("EchoTime", "RepetitionTime", "InversionTime"))
    if _number(header, "DiffusionBValue"):
        return "DWI"
    if echo is None or repetition is None:
        return None
    values = header.get("ScanningSequence") or ()
    scanning = {values} if isinstance(values, str) else set(map(str, values))
    if inversion and inversion >= 1500:
        return "FLAIR" if echo >= 60 and repetition >= 4000 else None
    if inversion:
        return "T1" if echo <= 30 and 400 <= inversion <= 1300 else None
    if "EP" in scanning:  # diffusion, perfusion and function look alike
        return None
    if "GR" in scanning:
        return "T2*" if echo >= 15 else "T1" if echo <= 8 and repetition <= 1000 else None
    if echo <= 30 and repetition <= 1200:
        return "T1"
    return "T2" if echo >= 70 and repetition >= 2000 else None


def _sequence_of_words(words: str) -> str | None:
    words = re.sub(_T1_FLAIR, "t1", words)
    found = {name for name, pattern in _SEQUENCE_WORDS.items() if re.search(pattern, words)}
    found -= {"T1", "T2"} if found & {"FLAIR", "DWI", "T2*"} else set()  # t2_flair
    return found.pop() if len(found) == 1 else None


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        return float(header.get(keyword))  # None raises, too
    except (TypeError, ValueError):
        return None
