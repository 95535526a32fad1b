"""HTTP service: classification, maps and a web page."""
