"""Errors of storage: which may go away, and what is said; tests/test_remote_files.py has those of real servers."""

from __future__ import annotations

import ssl

import pytest

from reslink.remote_errors import RemoteFileError, RemoteStorageError, chain_of, failure_of, is_transient, status_of
from reslink.remote_paths import RemotePath


class AnswerError(Exception):
    """An error of a client that states a status, as that of aiohttp."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the answer has the status {status} for https://me:5ec7e7@images.org/x.png?sig=5ec7e7")
        self.status = status


def caused_by(cause: Exception) -> Exception:
    error = FileNotFoundError("x.png")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AnswerError(503), True),
        (AnswerError(429), True),
        (AnswerError(404), False),
        (AnswerError(403), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError("broken"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (ssl.SSLCertVerificationError(), False),
        (ValueError(), False),
    ],
)
def test_what_may_go_away(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected


def test_the_status_of_a_cause() -> None:
    error = caused_by(AnswerError(503))
    assert (status_of(error), status_of(ValueError())) == (503, None)
    assert [type(one) for one in chain_of(error)] == [FileNotFoundError, AnswerError]


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (503, RemoteStorageError, r"in 8 attempts: .*Check the network"),
        (404, RemoteFileError, r"cannot be fetched: .*Check the path"),
        (403, RemoteFileError, r"cannot be fetched: .*Check the credentials"),
    ],
)
def test_what_people_are_told(status: int, kind: type[Exception], words: str) -> None:
    failure = failure_of(RemotePath("https://me:5ec7e7@images.org/x.png?sig=5ec7e7"), AnswerError(status), 8)
    assert type(failure) is kind
    assert "5ec7e7" not in str(failure)
    with pytest.raises(kind, match=words):
        raise failure
