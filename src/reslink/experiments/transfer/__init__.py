"""Transfer: a trained bundle evaluated on another data set."""
