"""An answer as a DICOM structured report, template TID 1500 (PS3.16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from reslink import __version__
from reslink.imaging.dicom.modality import MANUFACTURER
from reslink.inference.series import COVERS
from reslink.serving.dicom.classify import Answer
from reslink.serving.dicom.results import BANNER, Naming, device_uid, identification, plain, software

SCHEME: Final = "99RESLINK"
"""Coding scheme of class names, which mean what the model's card says and nothing that a terminology could promise."""

_PROCEDURES: Final = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MR": codes.LN.MRIUnspecifiedBodyRegion}
_LONGEST_TEXT: Final = 1024


def report(answer: Answer) -> Dataset:
    """Returns the report: the study's answer with its interval, and the probability of each slice.

    It is COMPLETE, UNVERIFIED and PRELIMINARY. The observer is a device. Algorithm name, version, threshold, rule and what the
    interval covers stand with the measurements.

    Args:
        answer: The answer.
    """
    series, names = answer.series, Naming(answer)
    algorithm = _algorithm(answer)
    site = sr.FindingSite(codes.SCT.Head)
    groups = [_study_group(answer, names, algorithm, site)]
    groups += [_slice_group(answer, names, algorithm, site, i) for i in range(len(series.chosen))]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(answer)),
        procedure_reported=_PROCEDURES[series.modality],
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [series.headers[i] for i in series.chosen]
    return sr.Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(SCHEME, name="class names of reslink bundles", responsible_organization=MANUFACTURER)
        ],
        **identification(answer, "report"),
        **software(answer.model),
    )


def _observer(answer: Answer) -> Any:
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(answer.model),
            name="reslink",
            manufacturer_name=MANUFACTURER,
            model_name=plain(answer.model.name),
            serial_number=answer.model.weights[:32],
        ),
    )


def _algorithm(answer: Answer) -> Any:
    return sr.AlgorithmIdentification(
        name=plain(f"reslink {answer.model.name}"),
        version=f"{__version__}; weights SHA-256 {answer.model.weights}; settings SHA-256 {answer.model.settings}",
        parameters=[plain(text, _LONGEST_TEXT) for text in parameters(answer)],
    )


def parameters(answer: Answer) -> list[str]:
    """Returns what a reader must know to judge the answer, a sentence each."""
    decision, study = answer.model.classifier.bundle.decision, answer.study
    threshold = "most probable class" if decision.threshold is None else f"{study.about} from {decision.threshold:.4f} on"
    calibrated = "calibrated" if decision.fitted_on is not None else "not calibrated"
    told = [
        BANNER,
        f"Threshold: {threshold} ({decision.threshold_source}), fitted on single slices; probabilities {calibrated}",
        f"Rule: {study.rule}",
        f"Interval of 95 %: {study.interval}",
        COVERS,
    ]
    if study.abstain:
        told.append(f"The model abstains: {'; '.join(study.reasons)}")
    return told + [f"Note: {note}" for note in answer.series.notes]


def _study_group(answer: Answer, names: Naming, algorithm: Any, site: Any) -> Any:
    study = answer.study
    shown = [answer.series.headers[answer.series.chosen[i]] for i in study.used]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=names.tracking("study"), identifier="answer for the series"),
        algorithm_id=algorithm,
        finding_sites=[site],
        measurements=[_measurement(name, value, answer) for name, value in study.probabilities.items()],
        qualitative_evaluations=[*_evaluations(answer)],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header) for header in shown],
    )


def _evaluations(answer: Answer) -> Sequence[Any]:
    """Returns the predicted class and, with two classes, what that is among normal, abnormal and equivocal (CID 3209)."""
    study, labels = answer.study, answer.model.classifier.labels
    found = [sr.QualitativeEvaluation(name=codes.DCM.Finding, value=_class(study.label))]
    if labels.binary:
        result = codes.SCT.ImagingResultAbnormal if study.label == labels.names[1] else codes.SCT.ImagingResultNormal
        if study.abstain:
            result = codes.CID3209.ImagingResultEquivocal
        found.append(sr.QualitativeEvaluation(name=codes.DCM.Impression, value=result))
    return found


def _measurement(name: str, value: float, answer: Answer) -> Any:
    """Returns the probability of a class; with the interval where it is the class that the interval is about."""
    study, properties = answer.study, None
    if name == study.about and study.ci_low is not None and study.ci_high is not None:
        properties = sr.MeasurementProperties(
            upper_measurement_uncertainty=_rounded(max(0.0, study.ci_high - value)),
            lower_measurement_uncertainty=_rounded(max(0.0, value - study.ci_low)),
        )
    return sr.Measurement(
        name=codes.DCM.Probability,
        qualifier=None,
        value=_rounded(value),
        unit=codes.UCUM.NoUnits,
        derivation=codes.SCT.Mean,
        method=_class(name),
        properties=properties,
    )


def _slice_group(answer: Answer, names: Naming, algorithm: Any, site: Any, index: int) -> Any:
    """Returns the probability of the class that the answer is about in one slice."""
    header, prediction = answer.series.headers[answer.series.chosen[index]], answer.predictions[index]
    value = (prediction.probabilities or {})[answer.study.about]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=names.tracking(header.SOPInstanceUID), identifier=f"slice {answer.series.chosen[index] + 1}"
        ),
        algorithm_id=algorithm if index == 0 else None,
        finding_sites=[site],
        measurements=[
            sr.Measurement(
                name=codes.DCM.Probability,
                value=_rounded(value),
                unit=codes.UCUM.NoUnits,
                method=_class(answer.study.about),
            )
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header)],
    )


def _class(name: str) -> Code:
    return Code(plain(name, 16), SCHEME, plain(name))


def _rounded(value: float) -> float:
    """Returns a number whose decimal form fits the 16 bytes of a DS."""
    return float(f"{value:.8f}")
