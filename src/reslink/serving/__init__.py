"""The service: bundles behind HTTP, with a page for people. No torch."""
