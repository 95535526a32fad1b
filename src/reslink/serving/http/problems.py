"""Errors of the service as problem details (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from reslink.errors import InputError, ReslinkError

MEDIA_TYPE: Final = "application/problem+json"
NOTICE: Final = "Research use only. Not a medical device; not for diagnosis."


class Problem(Exception):
    """A request, or one of its files, that gets no answer.

    Args:
        status: The HTTP status.
        name: What kind of problem it is: the last part of its ``type``.
        title: The same in words, without what is special to this case.
        detail: What was given, what is allowed, and what to do next.
        retry_after: Seconds after which to try again, for 503.
        **extra: Further members of the answer, such as ``errors``.
    """

    def __init__(self, status: int, name: str, title: str, detail: str, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(title)
        self.status, self.name, self.title, self.detail = status, name, title, detail
        self.retry_after, self.extra = retry_after, extra

    def as_dict(self) -> dict[str, Any]:
        """Returns the members of the answer."""
        return {
            "type": f"urn:reslink:problem:{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }

    def response(self) -> Response:
        """Returns the answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = 'Bearer realm="reslink"'
        return Response(json.dumps(self.as_dict()), self.status, headers, MEDIA_TYPE)


def bad_request(name: str, title: str, error: ReslinkError | str) -> Problem:
    """Returns the problem of a request that cannot be understood."""
    return Problem(HTTPStatus.BAD_REQUEST, name, title, str(error))


def too_large(what: str, limit: str) -> Problem:
    """Returns the problem of a request beyond a limit."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The request is too large",
        f"{what}. The limit is {limit}. Send less.",
    )


def unreadable(error: InputError) -> Problem:
    """Returns the problem of a file that is no image that can be read."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "unreadable-file", "The file cannot be read", str(error))


def wrong_kind(detail: str) -> Problem:
    """Returns the problem of a file of a kind that is not taken."""
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "wrong-kind", "The file is of another kind", detail)


def busy(detail: str, retry_after: int = 1) -> Problem:
    """Returns the problem of a service that has too much to do."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "busy", "The service has too much to do", f"{detail}. Try again later.", retry_after
    )


def fault() -> Problem:
    """Returns the problem of an error that nobody expected."""
    detail = "This is a bug in reslink. The log says where."
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "fault", "The service made a mistake", detail)
