"""The slices of a series that are evaluated."""

from reslink.imaging.slice_selection import select_slices


def test_slices_that_show_little_of_the_head_are_not_selected():
    assert select_slices([0, 49, 50, 100, 70, 20]) == (2, 3, 4)
    assert select_slices([0, 0]) == ()
    many = select_slices([100] * 640)
    assert (len(many), many[0], many[-1]) == (64, 0, 639)
