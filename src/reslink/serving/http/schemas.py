"""The forms of the answers, for the OpenAPI document: what a client may rely on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from reslink.serving.http.problems import NOTICE


class ProblemDetails(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = Field(examples=["urn:reslink:problem:too-large"])
    title: str = Field(examples=["The request is too large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["The body is too long. The limit is 268435456 bytes. Send less."])
    errors: list[FileProblem] | None = Field(None, description="Where no file could be answered: the problem of each.")


class FileProblem(BaseModel):
    """The problem of one file."""

    file: str
    problem: dict[str, Any]


class SliceAnswer(BaseModel):
    """What a model says about a slice: see ``Prediction``."""

    slice: int = Field(description="Position in the file, from 0.", examples=[0])
    label: str | None = Field(examples=["Tumor"])
    probability: float | None = Field(description="Of the label, 0 to 1.", examples=[0.93])
    probabilities: dict[str, float] | None = Field(examples=[{"Healthy": 0.07, "Tumor": 0.93}])
    set: list[str] | None = Field(description="Conformal set; null where the bundle has none.", examples=[["Tumor"]])
    abstain: bool | None = Field(description="Whether the bundle would rather not answer.", examples=[False])
    reasons: list[str] | None = Field(description="Why it abstains.", examples=[[]])
    ood_score: float | None = Field(description="Above 1: unlike the calibration images.", examples=[0.4])
    error: str | None = None


class ModelAnswer(BaseModel):
    """What a model says about the slices of a file."""

    model: str = Field(examples=["ct"])
    slices: list[SliceAnswer]


class FileAnswer(BaseModel):
    """What is said about a file, or why nothing is."""

    file: str = Field(description="As the client calls it; a member of an archive after the archive's name.")
    part: int = Field(description="Its place, or that of its archive, among the files sent.")
    member: int | None = Field(None, description="Its place in its archive; null outside one.")
    kind: str | None = Field(None, examples=["PNG"])
    slices: int | None = Field(None, description="How many the file holds.")
    unit: str | None = Field(None, examples=["HU"])
    notes: list[str] = Field([], description="What should be known about the file.")
    answers: list[ModelAnswer] = []
    problem: ProblemDetails | None = None


class StudyAnswer(BaseModel):
    """What a model says about a series as a whole: the same as ``reslink dicom answer`` says of it."""

    model: str = Field(examples=["ct"])
    label: str = Field(examples=["Tumor"])
    probability: float = Field(description="Of the label by the rule, 0 to 1.", examples=[0.91])
    probabilities: dict[str, float] = Field(examples=[{"Healthy": 0.09, "Tumor": 0.91}])
    about: str = Field(description="The class that the score and its interval speak of.", examples=["Tumor"])
    score: float = Field(description="The probability of that class by the rule.", examples=[0.91])
    ci_low: float | None = Field(description="Lower end of the 95 % interval; null where there is none.", examples=[0.84])
    ci_high: float | None = Field(examples=[0.95])
    interval: str = Field(description="How the interval was made, or why there is none.")
    rule: str = Field(description="How the slices were put together.")
    slices: int = Field(description="Slices that were judged: those that show enough of the head.", examples=[24])
    used: list[int] = Field(
        description="Places in the series, from 0, of the slices that make the answer.", examples=[[9, 10, 8]]
    )
    abstain: bool | None = Field(examples=[False])
    reasons: list[str] = Field(examples=[[]])
    covers: str = Field(description="What the interval covers, and what it does not.")


class Series(BaseModel):
    """The files of one series: a volume, or DICOM slices."""

    files: list[int] = Field(description="Places in ``files``, in order along the normal of the slices.")
    study: list[StudyAnswer] = Field(
        [],
        description="The answer for the series as a whole, a model each; none where one slice was asked for or shows no head, "
        "and where notes say why.",
    )
    notes: list[str] = Field(
        [], description="Why there is no answer for the series as a whole.", examples=[["localizer, not a slice"]]
    )


class Predictions(BaseModel):
    """The answer of ``/v1/predict``."""

    notice: str = NOTICE
    files: list[FileAnswer]
    series: list[Series]


class MapAnswer(BaseModel):
    """A map over a slice."""

    name: str = Field(examples=["first_attention"])
    title: str
    note: str = Field(description="What it says in a few words.")
    low: float
    high: float
    flat: bool = Field(
        description="Whether nothing can be drawn: it is the same everywhere, or has nothing above 0 within the image."
    )
    peak: list[int] = Field(description="Row and column of the strongest place.")
    strength: str = Field(description="A grey PNG in base64, as large as the image; 255 is strongest.")
    overlay: str = Field(description="The map over the image: a colour PNG in base64.")


class Explanation(SliceAnswer):
    """The answer to a slice with its maps."""

    model: str
    target: str = Field(description="The class that the class activation speaks for.")
    shape: list[int] = Field(description="Rows and columns of the image.")
    maps: list[MapAnswer]


class FileExplanation(BaseModel):
    """The explanations of one slice of a file, a model each, or why there is none."""

    file: str
    part: int
    member: int | None = None
    kind: str | None = None
    notes: list[str] = []
    explanations: list[Explanation] = []
    problem: ProblemDetails | None = None


class Explanations(BaseModel):
    """The answer of ``/v1/explain``."""

    notice: str = NOTICE
    files: list[FileExplanation]


class FileView(BaseModel):
    """The pixels of a file for a viewer: value = scale · number + offset."""

    file: str
    part: int
    member: int | None = None
    kind: str | None = None
    unit: str | None = None
    modality: str | None = None
    shape: list[int] | None = Field(None, description="Slices, rows, columns of what is sent.")
    step: int | None = Field(None, description="Pixels of the file between neighbouring values sent.")
    scale: float | None = None
    offset: float | None = None
    window: list[float] | None = Field(None, description="Centre and width to begin with.")
    windows: dict[str, list[float]] = {}
    inverted: bool = False
    spacing: list[float] | None = None
    data: str | None = Field(None, description="Little-endian int16, zlib, base64.")
    problem: ProblemDetails | None = None


class Views(BaseModel):
    """The answer of ``/v1/view``."""

    notice: str = NOTICE
    files: list[FileView]
    series: list[Series]


class DecisionFacts(BaseModel):
    """By what a model decides."""

    threshold: float | None
    threshold_source: str
    calibrated: bool
    coverage: float | None
    ood_gate: bool


class Model(BaseModel):
    """A model of the service."""

    name: str
    classes: list[str]
    positive: str | None
    weights_sha256: str | None
    backend: str
    input: list[int]
    window: str
    decision: DecisionFacts
    maps: dict[str, str]
    read_first: list[str] = Field(description="What must be known before an answer of the model is used.")
    licence: str
    intended_use: str


class Models(BaseModel):
    """The answer of ``/v1/models``; the first is the one that answers where none is named."""

    notice: str = NOTICE
    models: list[Model]


class Health(BaseModel):
    """The answer of the health checks."""

    status: str


ProblemDetails.model_rebuild()
