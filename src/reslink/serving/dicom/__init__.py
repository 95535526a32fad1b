"""The DICOM node and the DICOMweb client."""
