"""Parsing of archive addresses."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.serving.dicom.peer import Peer


@pytest.mark.parametrize(
    ("text", "peer"),
    [("PACS@10.0.0.7:104", Peer("PACS", "10.0.0.7", 104)), ("A@[::1]:4242", Peer("A", "::1", 4242))],
)
def test_an_address_is_ae_title_host_and_port(text, peer):
    assert Peer.parse(text) == peer


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:x", "A" * 17 + "@host:104"])
def test_an_invalid_address_is_refused(text):
    with pytest.raises(UsageError, match="is not the address of an archive"):
        Peer.parse(text)
