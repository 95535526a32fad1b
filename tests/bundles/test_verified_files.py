"""Files of a bundle are read only if they are those that were saved."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from reslink.bundles.verified_files import read_arrays, read_verified
from reslink.errors import BundleError


def test_the_saved_arrays_are_read(tmp_path, rng):
    arrays = {"a": rng.random((2, 3)), "b": np.arange(4, dtype=np.uint8)}
    content = save(arrays)
    (tmp_path / "x.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert read_verified(tmp_path / "x.safetensors", digest) == content
    loaded = read_arrays(tmp_path / "x.safetensors", digest)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(BundleError, match=r"x\.safetensors cannot be used: No such file"):
        read_verified(path, "0" * 64)
    path.write_bytes(b"no tensors")
    with pytest.raises(BundleError, match=r"its SHA-256 is [0-9a-f]{12}…, but bundle\.json says 000000000000…"):
        read_verified(path, "0" * 64)
    with pytest.raises(BundleError, match=r"x\.safetensors cannot be used: .*header"):
        read_arrays(path, hashlib.sha256(b"no tensors").hexdigest())
