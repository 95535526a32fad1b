"""The ResLink network, its layers and its analysis."""
