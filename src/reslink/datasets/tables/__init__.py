"""Tables of images: their formats, their rows, and the files that they name."""
