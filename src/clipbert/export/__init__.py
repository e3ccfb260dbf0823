"""Models as ONNX files or torch.export programs, which run without this package."""
