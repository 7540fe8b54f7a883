"""Models as ONNX files that run without torch, in float32 or int8; needs the extra ``onnx``."""
