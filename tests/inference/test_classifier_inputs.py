"""What ``Classifier.predict`` takes beside lists of files: one path, images and arrays, with the same answers."""

import re

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from reslink.errors import UsageError
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image


def answer(found):
    return [(one.label, {name: pytest.approx(p, abs=1e-6) for name, p in one.probabilities.items()}) for one in found]


def test_a_path_an_image_and_an_array_give_the_same(classifier, pictures):
    grey = np.asarray(Picture.open(pictures[3]))
    before = grey.copy()
    wanted = answer(classifier.predict(pictures[3:4]))
    for source in (pictures[3], str(pictures[3]), read_image(pictures[3]), grey, grey.copy()):
        found = classifier.predict(source)
        assert isinstance(found, list)
        assert answer(found) == wanted
    np.testing.assert_array_equal(grey, before)
    assert answer(classifier.predict(iter([grey, pictures[3]]))) == wanted * 2


def test_a_folder_is_one_source_with_many_answers(classifier, pictures):
    assert answer(classifier.predict(pictures[0].parent)) == answer(classifier.predict(pictures))


def test_a_volume_gives_an_answer_a_slice_in_the_unit_that_is_said(classifier, pictures):
    volume = np.stack([np.asarray(Picture.open(path)) for path in pictures[:3]])
    assert answer(classifier.predict(volume)) == answer(classifier.predict(pictures[:3]))
    found = classifier.predict(volume.astype(np.int16) - 60, unit="HU")
    assert [one.slice for one in found] == [0, 1, 2]
    hounsfield = [Image(np.float32(plane) - 60, unit="HU") for plane in volume]
    assert answer(found) == answer(classifier.predict(hounsfield))
    other = classifier.predict(volume.astype(np.int16) - 60, unit="MR")
    assert abs(found[0].probability - other[0].probability) > 1e-3


def test_an_array_stays_writable_and_untouched(classifier):
    array = np.random.default_rng(0).uniform(0, 80, (80, 80)).astype(np.float32)
    copy = array.copy()
    classifier.predict(array, unit="HU")
    array[0, 0] = 5  # an image makes its own pixels read-only, not those of its giver
    copy[0, 0] = 5
    np.testing.assert_array_equal(array, copy)


def test_numbers_without_a_unit_are_refused(classifier):
    with pytest.raises(UsageError, match=r'array of float64 was given without a unit.*Say unit="HU"'):
        classifier.predict(np.zeros((80, 80)))
    with pytest.raises(UsageError, match=r"no unit 'hu'.*(Did you mean|Choose one of)"):
        classifier.predict(np.zeros((80, 80)), unit="hu")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((80, 80, 3), np.uint8), "not colour pictures"),
        (np.zeros(80, np.uint8), r"shape \(80,\)"),
        (np.zeros((80, 8), np.uint8), "at least 16 pixels"),
        (np.full((80, 80), np.nan), "not finite"),
        (np.zeros((80, 80), complex), "holds complex128"),
    ],
)
def test_an_array_that_cannot_be_used_gives_its_error(classifier, array, message):
    [found] = classifier.predict(array, unit="HU" if array.dtype != np.uint8 else None)
    assert found.label is None
    assert re.search(message, found.error)


@pytest.mark.parametrize("source", [5, None, b"\xff\xd8 the content of a file", {"x": 1}.get, Picture.new("L", (8, 8))])
def test_what_is_no_source_is_named_and_never_shown(classifier, source):
    named = re.escape(type(source).__name__)
    for given in (source, [source], iter([source])):
        with pytest.raises(UsageError, match=f"^{named} was given to predict. A source is a path") as caught:
            list(classifier.predict(given))
        assert "content of a file" not in caught.value.given


def test_a_tensor_is_told_what_to_become(classifier):
    tensor = torch.zeros((3, 80, 80), dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"^Tensor was given to predict.*tensor\.numpy\(\)"):
        list(classifier.predict(tensor))
    assert len(classifier.predict(tensor.numpy())) == 3


@pytest.mark.parametrize("size", [2.5, "8"])
def test_a_batch_size_that_would_never_be_full_is_refused(classifier, pictures, size):
    with pytest.raises(UsageError, match=r"batch size is .*whole number of images"):
        classifier.predict(pictures, batch_size=size)
