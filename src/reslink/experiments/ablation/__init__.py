"""The ablation experiment."""
