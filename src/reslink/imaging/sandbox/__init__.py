"""Child processes with limits, for the decoding of untrusted files and for ONNX models from others."""
