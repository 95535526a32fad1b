"""Work in parts on a Ray cluster: on this machine or on several."""
