"""Serving: an HTTP service with a web page, a DICOM node and a DICOMweb client. Imports no torch."""
