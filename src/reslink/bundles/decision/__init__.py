"""From logits to a prediction: calibration, threshold, conformal prediction sets, out-of-distribution detector."""
