"""Models that run without this package: as ONNX, LiteRT or SavedModel, in a folder of their own."""
