"""Public data sets: registry, download, import."""
