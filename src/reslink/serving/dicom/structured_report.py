"""Structured report: the predictions of a series as DICOM SR with template TID 1500 (PS3.16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from reslink import __version__
from reslink.imaging.dicom.modality import MANUFACTURER
from reslink.inference.series import INTERVAL_SCOPE, SeriesPrediction
from reslink.serving.dicom.classify import SeriesResult
from reslink.serving.dicom.identifiers import (
    BANNER,
    ResultUIDs,
    ascii_value,
    device_uid,
    equipment_attributes,
    identification_attributes,
)

SCHEME: Final = "99RESLINK"
"""Coding scheme of class names. Their meaning is that of the model card, not of a medical terminology."""

_PROCEDURES: Final = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MR": codes.LN.MRIUnspecifiedBodyRegion}
_STATES: Final = {"present": Code("52101004", "SCT", "Present"), "absent": Code("2667000", "SCT", "Absent")}
_INDETERMINATE: Final = Code("82334004", "SCT", "Indeterminate")
_MAX_TEXT: Final = 1024


def structured_report(result: SeriesResult) -> Dataset:
    """Returns the report: the prediction for the series with its interval, and the probability of each slice.

    The report is COMPLETE (PARTIAL for an incomplete series), UNVERIFIED and PRELIMINARY, and the observer is a device. The
    measurements state algorithm name, version, threshold, rule and the scope of the interval.

    Args:
        result: The predictions for the series.
    """
    series = result.series
    groups = [_series_group(result)]
    groups += [_slice_group(result, i) for i in range(len(result.slice_predictions))]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(result)),
        procedure_reported=_PROCEDURES[series.modality],
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [series.headers[i] for i in series.selected]
    return sr.Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        is_complete=not series.incomplete,
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(SCHEME, name="class names of reslink bundles", responsible_organization=MANUFACTURER)
        ],
        **identification_attributes(result, "report"),
        **equipment_attributes(result.model),
    )


def _observer(result: SeriesResult) -> Any:
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(result.model),
            name="reslink",
            manufacturer_name=MANUFACTURER,
            model_name=ascii_value(result.model.name),
            serial_number=result.model.weights[:32],
        ),
    )


def _algorithm(result: SeriesResult) -> Any:
    return sr.AlgorithmIdentification(
        name=ascii_value(f"reslink {result.model.name}"),
        version=f"{__version__}; weights SHA-256 {result.model.weights}; settings SHA-256 {result.model.settings}",
        parameters=[ascii_value(text, _MAX_TEXT) for text in algorithm_parameters(result)],
    )


def algorithm_parameters(result: SeriesResult) -> list[str]:
    """Returns what a reader needs to interpret the report, one sentence each."""
    decision, prediction = result.model.classifier.bundle.decision, result.prediction
    threshold = "most probable class" if decision.threshold is None else f"{prediction.score_class} {decision.threshold:.3f}"
    source = decision.threshold_source
    if decision.by_label:
        rules = zip(result.model.classifier.labels.names, decision.by_label, strict=True)
        threshold = ", ".join(f"{name} {one.threshold:.3f}" for name, one in rules if one.threshold is not None)
    calibrated = "calibrated" if decision.fitted_on is not None else "not calibrated"
    fitted_on, interval = "single slices", [f"Interval of 95 %: {prediction.interval}", INTERVAL_SCOPE]
    if prediction.attention is not None:
        weights = (f"{result.series.selected[i] + 1}: {prediction.attention[i]:.3f}" for i in prediction.used)
        fitted_on, interval = "series", [prediction.interval, f"Slices with the largest weights: {', '.join(weights)}"]
    texts = [
        BANNER,
        *(f"INCOMPLETE SERIES: {reason}" for reason in result.series.incomplete),
        f"Threshold: {threshold} ({source}), fitted on {fitted_on}; probabilities {calibrated}",
        f"Rule: {prediction.rule}",
        *interval,
    ]
    if prediction.abstain:
        texts.append(f"The model abstains: {'; '.join(prediction.reasons)}")
    declined = {name: one.reasons for name, one in (prediction.by_label or {}).items() if one.abstain}
    texts += [f"The model abstains from {name}: {'; '.join(reasons)}" for name, reasons in declined.items()]
    return texts + [f"Note: {note}" for note in result.series.notes]


def _series_group(result: SeriesResult) -> Any:
    """Returns the measurement group of the series: the probability of each class, and the predicted class."""
    prediction = result.prediction
    sources = [result.series.headers[result.series.selected[i]] for i in prediction.used]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=ResultUIDs(result).tracking("series"), identifier="prediction for the series"
        ),
        algorithm_id=_algorithm(result),
        finding_sites=[sr.FindingSite(codes.SCT.Head)],
        measurements=[_measurement(name, value, result) for name, value in prediction.probabilities.items()],
        qualitative_evaluations=_evaluations(result),
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header) for header in sources],
    )


def _evaluations(result: SeriesResult) -> list[Any]:
    """Returns the predicted class and, with two classes, an impression: normal, abnormal or equivocal (CID 3209).

    Several labels at once give one finding each, of which the label is the name and the state the value.
    """
    prediction, labels = result.prediction, result.model.classifier.labels
    if prediction.by_label is not None:
        return [evaluation for name, one in prediction.by_label.items() for evaluation in _label_evaluations(name, one)]
    evaluations = [sr.QualitativeEvaluation(name=codes.DCM.Finding, value=_class_code(prediction.label))]
    if labels.binary:
        positive = prediction.label == labels.names[1]
        impression = codes.SCT.ImagingResultAbnormal if positive else codes.SCT.ImagingResultNormal
        if prediction.abstain:
            impression = codes.CID3209.ImagingResultEquivocal
        evaluations.append(sr.QualitativeEvaluation(name=codes.DCM.Impression, value=impression))
    return evaluations


def _label_evaluations(name: str, prediction: SeriesPrediction) -> list[Any]:
    """Returns the finding of one of several labels at once: present, absent, or indeterminate where the model abstains."""
    state = _INDETERMINATE if prediction.abstain else _STATES[prediction.label]
    return [sr.QualitativeEvaluation(name=_class_code(name), value=state)]


def _measurement(name: str, value: float, result: SeriesResult) -> Any:
    """Returns the probability of a class, with the interval if it is the class of the score."""
    prediction, properties = result.prediction, None
    if prediction.by_label is not None:
        prediction = replace(prediction.by_label[name], score_class=name)
    if name == prediction.score_class and prediction.ci_low is not None and prediction.ci_high is not None:
        properties = sr.MeasurementProperties(
            upper_measurement_uncertainty=_rounded(max(0.0, prediction.ci_high - value)),
            lower_measurement_uncertainty=_rounded(max(0.0, value - prediction.ci_low)),
        )
    return sr.Measurement(
        name=codes.DCM.Probability,
        qualifier=None,
        value=_rounded(value),
        unit=codes.UCUM.NoUnits,
        derivation=None if prediction.attention is not None else codes.SCT.Mean,  # attention weighs logits
        method=_class_code(name),
        properties=properties,
    )


def _slice_group(result: SeriesResult, index: int) -> Any:
    """Returns the measurement group of one slice: the probability of the score's class, or of several labels at once."""
    position, score_class = result.series.selected[index], result.prediction.score_class
    header = result.series.headers[position]
    probabilities = result.slice_predictions[index].probabilities or {}
    shown = list(probabilities) if result.prediction.by_label else [score_class]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=ResultUIDs(result).tracking(header.SOPInstanceUID), identifier=f"slice {position + 1}"
        ),
        algorithm_id=_algorithm(result) if index == 0 else None,
        finding_sites=[sr.FindingSite(codes.SCT.Head)],
        measurements=[
            sr.Measurement(
                name=codes.DCM.Probability,
                value=_rounded(probabilities[name]),
                unit=codes.UCUM.NoUnits,
                method=_class_code(name),
            )
            for name in shown
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header)],
    )


def _class_code(name: str) -> Code:
    return Code(ascii_value(name, 16), SCHEME, ascii_value(name))


def _rounded(value: float) -> float:
    """Returns a number whose decimal form fits the 16 bytes of a DS."""
    return float(f"{value:.8f}")
