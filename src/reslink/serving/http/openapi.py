"""The OpenAPI document: what FastAPI does not know of uploads that it does not parse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_FIELDS: dict[str, dict[str, Any]] = {
    "model": {
        "type": "array",
        "items": {"type": "string", "maxLength": 80},
        "description": "Names of models, see /v1/models; may be given again. If not given, the first.",
    },
    "slice": {
        "type": "integer",
        "minimum": 0,
        "maximum": 999_999,
        "description": "The only slice wanted of each file, from 0. /v1/explain takes the first if it is not given.",
    },
    "member": {
        "type": "integer",
        "minimum": 0,
        "maximum": 999_999,
        "description": "The only member wanted of each archive, from 0, as an answer counts them.",
    },
    "target": {
        "type": "string",
        "maxLength": 80,
        "description": "The class that the class activation speaks for; if not given, the positive of two or the predicted.",
    },
}
_FILES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "description": "PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM or NIfTI, by content; or zip archives of them.",
}
_ONE_FILE = (
    '--X\r\nContent-Disposition: form-data; name="files"; filename="scan.dcm"\r\n'
    "Content-Type: application/dicom\r\n\r\n(bytes of the file)\r\n--X--\r\n"
)


def upload_body(*fields: str) -> dict[str, Any]:
    """Returns the request body of a route that takes files and some fields."""
    schema = {
        "type": "object",
        "required": ["files"],
        "properties": {"files": _FILES, **{name: _FIELDS[name] for name in fields}},
    }
    example = {"summary": "A DICOM file", "value": _ONE_FILE}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "examples": {"one file": example}}}}


def described(app: FastAPI, *, token: bool) -> None:
    """Makes the application describe itself, with its token where one is asked for, and with examples of its problems."""

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
    """Problems come as ``application/problem+json``; FastAPI describes them as plain JSON beside it."""
    for response in responses.values():
        content = response.get("content", {})
        if "application/problem+json" in content:
            content["application/problem+json"] = content.pop("application/json", content["application/problem+json"])
