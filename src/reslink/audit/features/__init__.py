"""Features that the audit extracts from each file: image, header, asymmetry, pixels outside the head."""
