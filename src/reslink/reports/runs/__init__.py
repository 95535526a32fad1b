"""The runs below a folder: a table, and a page that compares their learning curves."""
