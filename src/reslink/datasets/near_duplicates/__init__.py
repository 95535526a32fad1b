"""Near duplicates: the same picture again, also mirrored, rotated, cropped or re-encoded."""
