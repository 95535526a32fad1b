"""The token that a service beyond loopback needs."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.serving.http.app import Settings
from reslink.serving.http.server import require_token, serve


def test_loopback_needs_no_token():
    require_token("127.0.0.1", None)


def test_every_other_address_needs_one():
    with pytest.raises(UsageError, match="without a token"):
        require_token("0.0.0.0", None)


@pytest.mark.parametrize(
    "name", ["reslink.example.org", "192.0.2.7", "reslink.example.org:443", "[2001:db8::1]", "localhost.example"]
)
def test_a_further_host_name_needs_one(name: str):
    """It is the setup behind a proxy that others can reach."""
    with pytest.raises(UsageError, match="would answer to the host name") as caught:
        require_token("127.0.0.1", None, ["localhost", name])
    assert name in caught.value.given
    assert "RESLINK_TOKEN" in caught.value.next_step
    require_token("127.0.0.1", "a" * 16, [name])


def test_a_service_that_is_started_in_python_needs_one_too():
    with pytest.raises(UsageError, match=r"would answer to the host name reslink\.example\.org"):
        serve(Settings(("ct",), hosts=("reslink.example.org",)), 0, 1)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.2", "::1", "[::1]", "localhost:8000"])
def test_names_of_loopback_need_none(name: str):
    require_token("127.0.0.1", None, [name])


@pytest.mark.parametrize("token", ["short", "a" * 15, "with a space in it", "ümlaut-ümlaut-ümlaut", "line\nline\nline\nline"])
def test_a_weak_token_is_refused(token):
    with pytest.raises(UsageError, match="at least 16 printable ASCII characters"):
        require_token("127.0.0.1", token)
