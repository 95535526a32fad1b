"""Records a run in TensorBoard, MLflow or Weights & Biases, in files of the run folder."""
