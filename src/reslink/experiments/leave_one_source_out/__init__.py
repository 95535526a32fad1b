"""Leave one source out: training without each source in turn, and evaluation on it."""
