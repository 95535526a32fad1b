"""A clean copy of a data set: pixels rewritten, identifying data and burned-in text removed."""
