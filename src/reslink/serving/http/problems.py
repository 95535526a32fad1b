"""Error responses of the service as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from reslink.errors import InputError, ReslinkError, UsageError

MEDIA_TYPE: Final = "application/problem+json"
NOTICE: Final = "Research use only. Not a medical device; not for diagnosis."


class Problem(Exception):
    """A request, or one of its files, that cannot be processed.

    Args:
        status: HTTP status code.
        name: Kind of problem, the last part of its ``type``.
        title: Short description of this kind of problem.
        detail: What was given, what is allowed, and what to do next.
        retry_after: Seconds after which to try again, for status 503.
        **extra: Further members of the response, such as ``errors``.
    """

    def __init__(self, status: int, name: str, title: str, detail: str, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(title)
        self.status, self.name, self.title, self.detail = status, name, title, detail
        self.retry_after, self.extra = retry_after, extra

    def as_dict(self) -> dict[str, Any]:
        """Returns the members of the response."""
        return {
            "type": f"urn:reslink:problem:{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }

    def response(self) -> Response:
        """Returns the HTTP response."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = 'Bearer realm="reslink"'
        return Response(json.dumps(self.as_dict()), self.status, headers, MEDIA_TYPE)


def bad_request(name: str, title: str, error: ReslinkError | str) -> Problem:
    """Returns the problem of a malformed request (400)."""
    return Problem(HTTPStatus.BAD_REQUEST, name, title, str(error))


def too_large(given: str, limit: str) -> Problem:
    """Returns the problem of a request beyond a limit (413)."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The request is too large",
        f"{given}. The limit is {limit}. Send less.",
    )


def unreadable_file(error: InputError) -> Problem:
    """Returns the problem of a file that cannot be decoded as an image (422)."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "unreadable-file", "The file cannot be read", str(error))


def needs_series(detail: str) -> Problem:
    """Returns the problem of a single image for a model that answers for series (422)."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "needs-series", "The model needs a series", detail)


def needs_target(model: str, classes: Sequence[str]) -> Problem:
    """Returns the problem of an explanation without a class, of a model that has no default (400)."""
    error = UsageError(
        f"No class to explain was given, and {model} has no answer for a single slice",
        f"The classes of {model} are {', '.join(classes)}",
        "Send one of them in the field target",
    )
    return bad_request("needs-target", "The model needs a class to explain", error)


def unsupported_format(detail: str) -> Problem:
    """Returns the problem of a file whose format is not accepted (415)."""
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-format", "The file format is not supported", detail)


def busy(detail: str, retry_after: int = 1) -> Problem:
    """Returns the problem of an overloaded service (503)."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "The service is busy", f"{detail}. Try again later.", retry_after)


def internal_error() -> Problem:
    """Returns the problem of an unexpected exception (500)."""
    detail = "This is a bug in reslink. The log of the service shows where it happened."
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "fault", "Internal error", detail)
