"""From image files to arrays: readers, head mask, preprocessing. No torch."""
