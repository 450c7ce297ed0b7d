"""What ONNX Runtime would fold by itself, and how to forbid it."""

#: All of its optimisers that remove a BatchNormalization below the level that changes the memory layout.
FOLDING_OPTIMISERS = ("ConvBNFusion", "MatMul_BatchNormalization_Fusion")
