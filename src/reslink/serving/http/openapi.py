"""OpenAPI document: describes the upload forms, which FastAPI does not parse itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_FIELDS: dict[str, dict[str, Any]] = {
    "model": {
        "type": "array",
        "items": {"type": "string", "maxLength": 80},
        "description": "Name of a model, see /v1/models; may be repeated. Default: the first model.",
    },
    "slice": {
        "type": "integer",
        "minimum": 0,
        "maximum": 999_999,
        "description": "The only slice to process of each file, from 0. Default: all slices; for /v1/explain, the first slice. "
        "/v1/predict refuses it for a series model.",
    },
    "member": {
        "type": "integer",
        "minimum": 0,
        "maximum": 999_999,
        "description": "The only member to process of each archive, from 0, as numbered in the response.",
    },
    "unit": {
        "type": "string",
        "enum": ["hu", "mr", "gray"],
        "description": "Unit of the values of files that state none, such as NIfTI and NPY. Default: by the histogram.",
    },
    "sequence": {
        "type": "string",
        "maxLength": 80,
        "description": "MR sequence of the files: T1, T1C+ (after contrast), T2, FLAIR and others. A model for other sequences "
        "refuses them. Default: what each file states.",
    },
    "target": {
        "type": "string",
        "maxLength": 80,
        "description": "Class to explain. Default: the positive class of two, or the predicted class of more. Required for a "
        "model of more than two classes whose case is a series.",
    },
}
_FILES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "description": "PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM or NIfTI files, or zip archives of them. "
    "The format is detected from the content. A volume, and the DICOM files of one series, are answered as a series; a model "
    "whose case is a series refuses other images.",
}
_ONE_FILE = (
    '--X\r\nContent-Disposition: form-data; name="files"; filename="scan.dcm"\r\n'
    "Content-Type: application/dicom\r\n\r\n(bytes of the file)\r\n--X--\r\n"
)


def upload_body(*fields: str) -> dict[str, Any]:
    """Returns the request body of a route that takes files and the given fields."""
    schema = {
        "type": "object",
        "required": ["files"],
        "properties": {"files": _FILES, **{name: _FIELDS[name] for name in fields}},
    }
    example = {"summary": "A DICOM file", "value": _ONE_FILE}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "examples": {"one file": example}}}}


def install_openapi(app: FastAPI, *, token: bool) -> None:
    """Replaces the OpenAPI document of the application by a complete one.

    Args:
        app: The application.
        token: Whether the service requires a token.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, token)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, token: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    for path in document["paths"].values():
        for operation in path.values():
            _use_problem_type(operation["responses"])
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _use_problem_type(responses: dict[str, Any]) -> None:
    """Describes errors as ``application/problem+json`` only; FastAPI adds plain JSON."""
    for response in responses.values():
        content = response.get("content", {})
        if "application/problem+json" in content:
            content["application/problem+json"] = content.pop("application/json", content["application/problem+json"])
