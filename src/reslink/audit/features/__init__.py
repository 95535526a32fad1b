"""What the audit measures in each file: image statistics, header, asymmetry, pixels outside the head."""
