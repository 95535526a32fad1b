"""Log lines hold routes and numbers, and nothing of a request."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from reslink.serving.http import access_log


@pytest.fixture
def restored_loggers() -> Iterator[None]:
    """Loggers are global: restores what ``configure`` changes."""
    loggers = [access_log.LOGGER, *(logging.getLogger(name) for name in access_log._OTHER_LOGGERS)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("restored_loggers")
@pytest.mark.parametrize("quiet", [False, True])
def test_one_line_per_request(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    access_log.configure(quiet)
    access_log.log_request(7, "POST", "/v1/predict", 200, 0.0123)
    logging.getLogger("uvicorn.error").error("GET /patients/doe")
    line = capsys.readouterr().err
    assert line == "" if quiet else re.fullmatch(r"[\d:, -]+ INFO request 7 POST /v1/predict 200 12 ms\n", line)


def test_the_message_of_an_unexpected_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("doe_john.dcm")

    try:
        fail()
    except ValueError as error:
        access_log.log_unexpected_error(3, error)
    access_log.log_unexpected_error(4, ValueError("doe_john.dcm"))
    assert re.search(r"request 3 failed: ValueError at test_access_log\.py:\d+", caplog.text)
    assert "request 4 failed: ValueError at an unknown location" in caplog.text
    assert "doe" not in caplog.text
