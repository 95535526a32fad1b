"""Error responses by RFC 9457."""

from __future__ import annotations

import json

import pytest

from reslink.errors import InputError
from reslink.serving.http import problems
from reslink.serving.http.problems import Problem

ERROR = InputError("a.png is damaged", "A PNG is complete", "Send it again")


@pytest.mark.parametrize(
    ("problem", "status", "name", "detail"),
    [
        (problems.bad_request("form", "The form is malformed", ERROR), 400, "form", str(ERROR)),
        (problems.too_large("The body has 9 bytes", "8 bytes"), 413, "too-large", "9 bytes. The limit is 8 bytes. Send less."),
        (problems.unsupported_format("a.txt is text."), 415, "unsupported-format", "a.txt is text."),
        (problems.unreadable_file(ERROR), 422, "unreadable-file", "a.png is damaged. A PNG is complete. Send it again."),
        (problems.internal_error(), 500, "fault", "This is a bug in reslink."),
        (problems.busy("All workers are busy", 3), 503, "busy", "All workers are busy. Try again later."),
    ],
)
def test_each_problem_is_a_problem_document(problem: Problem, status: int, name: str, detail: str) -> None:
    response = problem.response()
    content = json.loads(response.body)
    assert (response.status_code, response.media_type) == (status, "application/problem+json")
    assert (content["status"], content["type"]) == (status, f"urn:reslink:problem:{name}")
    assert detail in content["detail"]
    assert response.headers.get("retry-after") == ("3" if name == "busy" else None)


def test_further_members_and_the_challenge_of_401() -> None:
    problem = Problem(401, "token", "A token is missing", "Send a token.", errors=[{"file": "a.png"}])
    assert problem.as_dict()["errors"] == [{"file": "a.png"}]
    assert problem.response().headers["www-authenticate"] == 'Bearer realm="reslink"'
