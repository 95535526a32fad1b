"""Tables of predictions, and predictions in shards."""
