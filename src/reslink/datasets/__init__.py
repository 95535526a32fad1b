"""What is learned from: manifests, splits, near copies, decoded caches, augmentation, synthetic heads."""
