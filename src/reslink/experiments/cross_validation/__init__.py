"""Cross-validation: folds, out-of-fold predictions, and the ensemble of the folds."""
