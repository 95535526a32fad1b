"""Search of recipe settings: trials on grouped folds, and one evaluation on a hold-out."""
