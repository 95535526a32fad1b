"""DICOM: reading, frames, geometry, series, header, modality."""
