"""Response schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from reslink.serving.http.problems import NOTICE


class ProblemDetails(BaseModel):
    """An error as defined by RFC 9457."""

    type: str = Field(examples=["urn:reslink:problem:too-large"])
    title: str = Field(examples=["The request is too large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["The request body is too long. The limit is 268435456 bytes. Send less."])
    errors: list[FileProblem] | None = Field(None, description="The problem of each file, if every file has one.")


class FileProblem(BaseModel):
    """The problem of one file."""

    file: str
    problem: dict[str, Any]


class LabelAnswer(BaseModel):
    """The prediction of a model for one of several labels at once."""

    present: bool = Field(description="Whether its probability reaches the threshold.")
    probability: float = Field(description="Probability that it is present, 0 to 1.", examples=[0.12])
    threshold: float = Field(examples=[0.2])
    prediction_set: list[str] | None = Field(description="absent, present, both or none; null if not fitted.")
    abstain: bool | None = Field(description="Whether the model abstains from this label or from the image.")
    reasons: list[str] | None = Field(description="Why it abstains.")
    certainty: str


SCOPE = Field(
    description="What the model is for (modality, planes and patients), and how it did on images of other hospitals.",
    examples=[
        "The model is for axial CT of the head; patients: not described. No evaluation on images of other hospitals is "
        "recorded."
    ],
)


class SliceAnswer(BaseModel):
    """The prediction of a model for one slice."""

    slice: int = Field(description="Position in the file, from 0.", examples=[0])
    label: str | None = Field(
        description="The class; null if there is an error, or if the image is not what the model is for.", examples=["Tumor"]
    )
    probability: float | None = Field(
        description="Probability of the label, 0 to 1; null with several labels at once.", examples=[0.93]
    )
    probabilities: dict[str, float] | None = Field(examples=[{"Healthy": 0.07, "Tumor": 0.93}])
    prediction_set: list[str] | None = Field(
        description="Conformal prediction set; null if the bundle has none.", examples=[["Tumor"]]
    )
    abstain: bool | None = Field(description="Whether the model abstains; null if it never does.", examples=[False])
    reasons: list[str] | None = Field(description="Why it abstains.", examples=[[]])
    ood_score: float | None = Field(description="Out-of-distribution score; the model abstains above 1.", examples=[0.4])
    error: str | None = None
    threshold: float | None = Field(
        None, description="With two classes, the probability from which the positive class is the label.", examples=[0.22]
    )
    certainty: str | None = Field(
        None,
        description="One of decided, uncertain, uncalibrated and no answer; null if there is an error.",
        examples=["decided"],
    )
    by_label: dict[str, LabelAnswer] | None = Field(
        None, description="The prediction for each of several labels at once; absent with one class per image."
    )


class ModelAnswer(BaseModel):
    """The predictions of a model for the slices of a file."""

    model: str = Field(examples=["ct"])
    scope: str = SCOPE
    slices: list[SliceAnswer]


class FileAnswer(BaseModel):
    """The predictions for a file, or its problem."""

    file: str = Field(description="File name given by the client; for a member of an archive, after the name of the archive.")
    part: int = Field(description="Position of the file, or of its archive, among the sent files.")
    member: int | None = Field(None, description="Position in the archive; null outside an archive.")
    format: str | None = Field(None, examples=["PNG"])
    slices: int | None = Field(None, description="Number of slices in the file.")
    unit: str | None = Field(None, examples=["HU"])
    notes: list[str] = Field([], description="Warnings about the file.")
    answers: list[ModelAnswer] = Field(
        [], description="One per model whose case is a slice. A series model answers in series alone."
    )
    problem: ProblemDetails | None = None


class SliceWeight(BaseModel):
    """The weight of a slice in the answer for its series."""

    slice: int = Field(description="Position in the series, from 0.", examples=[9])
    weight: float = Field(description="0 to 1; the weights of a series sum to 1.", examples=[0.31])


class SeriesNumbers(BaseModel):
    """The prediction for a whole series."""

    label: str = Field(examples=["Tumor"])
    probability: float | None = Field(
        description="Probability of the label, aggregated by the rule, 0 to 1; null with several labels at once.",
        examples=[0.91],
    )
    probabilities: dict[str, float] = Field(examples=[{"Healthy": 0.09, "Tumor": 0.91}])
    score_class: str = Field(description="The class of the score and its interval.", examples=["Tumor"])
    score: float = Field(description="Probability of that class, aggregated by the rule.", examples=[0.91])
    ci_low: float | None = Field(description="Lower end of the 95 % interval; null without an interval.", examples=[0.84])
    ci_high: float | None = Field(examples=[0.95])
    interval: str = Field(description="Method of the interval, or why there is none.")
    rule: str = Field(description="How the slices were aggregated.")
    slices: int = Field(description="Number of classified slices: those that show enough of the head.", examples=[24])
    used: list[int] = Field(
        description="Positions in the series, from 0, of the slices that the prediction is computed from.",
        examples=[[9, 10, 8]],
    )
    abstain: bool | None = Field(examples=[False])
    reasons: list[str] = Field(examples=[[]])
    interval_scope: str = Field(description="Which uncertainty the interval covers, and which it does not.")


class SeriesAnswer(SeriesNumbers):
    """The prediction of a model for a whole series, identical to that of the DICOM node."""

    model: str = Field(examples=["ct"])
    scope: str = SCOPE
    by_label: dict[str, SeriesNumbers] | None = Field(
        None,
        description="The prediction for each of several labels at once, with the classes absent and present; absent with one "
        "class per image.",
    )
    attention: list[SliceWeight] | None = Field(
        None, description="Of a series model, the weight of each classified slice; absent for other models."
    )
    prediction_set: list[str] | None = Field(
        None, description="Of a series model, its conformal prediction set; null if the bundle has none."
    )
    ood_score: float | None = Field(
        None, description="Of a series model, its out-of-distribution score; the model abstains above 1."
    )
    threshold: float | None = Field(
        None, description="Of a series model, the probability from which the positive class is the label."
    )
    certainty: str | None = Field(None, description="Of a series model: decided, uncertain, uncalibrated or no answer.")


class Series(BaseModel):
    """The files of one series: a volume, or DICOM slices."""

    files: list[int] = Field(description="Positions in ``files``, ordered along the normal of the slices.")
    answers: list[SeriesAnswer] = Field(
        [],
        description="One prediction per model for the whole series; empty if one slice was requested, no slice shows a head, "
        "or the notes give another reason.",
    )
    notes: list[str] = Field(
        [], description="Why there is no prediction for the whole series.", examples=[["localizer, not a slice"]]
    )


class Predictions(BaseModel):
    """The response of ``/v1/predict``."""

    notice: str = NOTICE
    files: list[FileAnswer]
    series: list[Series]


class MapAnswer(BaseModel):
    """A map over a slice."""

    name: str = Field(examples=["first_attention"])
    title: str
    note: str = Field(description="Short description of the map.")
    low: float
    high: float
    flat: bool = Field(description="Whether the map is constant, or has no positive value within the image.")
    peak: list[int] = Field(description="Row and column of the maximum.")
    strength: str = Field(description="Gray PNG in base64, of the size of the image; 255 is strongest.")
    overlay: str = Field(description="The map over the image: color PNG in base64.")


class Explanation(SliceAnswer):
    """The prediction for a slice with its maps; a series model has no prediction for a slice."""

    model: str
    target: str | None = Field(description="The class that the class activation map explains; null if the image is refused.")
    shape: list[int] = Field(description="Rows and columns of the image.")
    maps: list[MapAnswer]


class FileExplanation(BaseModel):
    """One explanation per model for one slice of a file, or its problem."""

    file: str
    part: int
    member: int | None = None
    format: str | None = None
    notes: list[str] = []
    explanations: list[Explanation] = []
    problem: ProblemDetails | None = None


class Explanations(BaseModel):
    """The response of ``/v1/explain``."""

    notice: str = NOTICE
    files: list[FileExplanation]


class FileView(BaseModel):
    """The pixels of a file for a viewer: value = scale · stored value + offset."""

    file: str
    part: int
    member: int | None = None
    format: str | None = None
    unit: str | None = None
    modality: str | None = None
    shape: list[int] | None = Field(None, description="Slices, rows and columns of the data.")
    step: int | None = Field(None, description="Subsampling step of rows and columns.")
    scale: float | None = None
    offset: float | None = None
    window: list[float] | None = Field(None, description="Initial window center and width.")
    windows: dict[str, list[float]] = {}
    inverted: bool = False
    spacing: list[float] | None = None
    edges: list[str] | None = Field(
        None, description="Sides of the patient (R, L, A, P, H, F) at the left, right, top and bottom; null if not stated."
    )
    thickness: float | None = Field(None, description="Slice thickness, or the distance between slices, in mm.")
    location: float | None = Field(None, description="Position of a single slice along its normal, in mm.")
    description: str = Field("", description="Series Description of a DICOM file.")
    data: str | None = Field(None, description="Little-endian int16, zlib, base64.")
    problem: ProblemDetails | None = None


class Views(BaseModel):
    """The response of ``/v1/view``."""

    notice: str = NOTICE
    files: list[FileView]
    series: list[Series]


class LabelRule(BaseModel):
    """Decision rule of one of several labels at once."""

    threshold: float | None
    threshold_source: str
    coverage: float | None


class DecisionRule(BaseModel):
    """Decision rule of a model."""

    threshold: float | None
    threshold_source: str
    calibrated: bool
    coverage: float | None
    ood_detector: bool
    by_label: list[LabelRule] | None = Field(None, description="The rule of each of several labels at once; null otherwise.")


class Model(BaseModel):
    """A model of the service."""

    name: str
    case: str = Field(
        description="What gets one answer: slice, or series. A series model refuses images that are not part of a series.",
        examples=["slice"],
    )
    classes: list[str]
    positive: str | None
    weights_sha256: str | None
    backend: str
    input: list[int]
    window: str
    images: str = Field(description="The images that the model is for.", examples=["axial CT of the head"])
    modality: str | None = Field(description="Modality of these images; null for any.", examples=["CT"])
    decision: DecisionRule
    maps: dict[str, str]
    usage_notes: list[str] = Field(description="Limitations to read before using the model.")
    license: str
    intended_use: str


class Models(BaseModel):
    """The response of ``/v1/models``; the first model is the default."""

    notice: str = NOTICE
    models: list[Model]


class Health(BaseModel):
    """The response of the health checks."""

    status: str


ProblemDetails.model_rebuild()
