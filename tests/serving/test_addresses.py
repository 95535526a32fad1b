"""What counts as loopback, where neither a token nor TLS is asked for."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.serving.http.server import check_exposed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_exposed(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "127.evil.example", "localhost.example"])
def test_every_other_address_needs_one(host):
    with pytest.raises(UsageError, match="without a token"):
        check_exposed(host, None)
