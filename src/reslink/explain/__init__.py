"""Where a network looks: attention gates, Grad-CAM and its kin, and whether any of it can be believed."""
