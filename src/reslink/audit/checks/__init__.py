"""The checks of an audit: near duplicates, file quality, label errors, shortcuts."""
