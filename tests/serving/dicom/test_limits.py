"""The default limits fit real senders."""

from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.serving.dicom.limits import AssociationLimits


def test_the_limits_fit_each_other() -> None:
    limits = AssociationLimits()
    assert limits.object_bytes == MAX_FILE_BYTES, "a larger file would be refused when it is read"
    assert limits.buffer_bytes >= limits.object_bytes
    assert limits.buffer_bytes // limits.associations >= 2 * 4096 * 4096, "a slice is received also when the memory is used up"
    assert limits.pdu_bytes > 128 * 1024, "other nodes announce PDUs of up to 128 KiB"
