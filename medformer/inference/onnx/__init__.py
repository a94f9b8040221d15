"""ONNX: networks with what comes before and after them as graphs, checked against our own predictions."""
