"""The token that a service beyond loopback needs."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.serving.http.server import require_token


def test_loopback_needs_no_token():
    require_token("127.0.0.1", None)


def test_every_other_address_needs_one():
    with pytest.raises(UsageError, match="without a token"):
        require_token("0.0.0.0", None)


@pytest.mark.parametrize("token", ["short", "a" * 15, "with a space in it", "ümlaut-ümlaut-ümlaut", "line\nline\nline\nline"])
def test_a_weak_token_is_refused(token):
    with pytest.raises(UsageError, match="at least 16 printable ASCII characters"):
        require_token("127.0.0.1", token)
