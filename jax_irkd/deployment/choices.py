"""What may be chosen, in words. Nothing is imported: the commands' --help reads it, too."""

WHICH = ("last", "best", "ema")
"""A run's checkpoints: best is so on the validation subjects, ema averages the parameters."""
ENGINES = ("auto", "jax", "onnxruntime", "openvino")
"""What runs a network (`engines.choose`)."""
WINDOWS = ("auto", "shared", "whole")
"""How often a frame is computed: once, or in every window that it is in."""
PRECISIONS = ("float32", "bf16", "fp16", "int8")
"""What an exported network computes in; fp16 is for ONNX files."""
