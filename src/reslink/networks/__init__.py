"""The ResLink network family: tensors in, logits out."""
