"""DICOM node and DICOMweb client: receive series, send results."""
