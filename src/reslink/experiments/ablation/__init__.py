"""Ablation: what each part of the network contributes."""
