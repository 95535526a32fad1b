"""Loopback addresses, for which neither a token nor TLS is required."""

from __future__ import annotations

import pytest

from reslink.serving.addresses import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "127.evil.example", "localhost.example"])
def test_every_other_address(host):
    assert not is_loopback(host)
