"""Training: recipe, loop, losses, checkpoints and the watch over a run."""
