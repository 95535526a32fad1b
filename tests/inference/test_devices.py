"""Device selection by name."""

import pytest
import torch

from reslink.errors import UsageError
from reslink.inference.devices import pick_device


def offer(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda:0"),
        (0, True, "auto", "cpu"),
        (0, True, "mps", "mps"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
    ],
)
def test_names(monkeypatch, cuda, mps, name, expected):
    offer(monkeypatch, cuda, mps)
    assert str(pick_device(name)) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "'cuda' is not available here.*available devices are auto, cpu. Use --device auto"),
        ("cuda:3", "'cuda:3' is not available here"),
        ("mps", "'mps' is not available here"),
        ("cpuu", "There is no device 'cpuu'.*Did you mean 'cpu'"),
        ("tpu-v4", "There is no device 'tpu-v4'"),
        ("", "There is no device ''"),
    ],
)
def test_unavailable_devices_are_refused(monkeypatch, name, message):
    offer(monkeypatch)
    with pytest.raises(UsageError, match=message):
        pick_device(name)
