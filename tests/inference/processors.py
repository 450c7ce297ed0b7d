"""What the processor the tests run on can do."""

import onnxruntime as ort
import openvino as ov
import pytest

from service.inference.onnxruntime_engine import CUDA
from service.inference.tensorrt_engine import tensorrt_obstacle
from service.machine import gpu_models

HAS_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

#: On these the tests of the GPU run. None has been run yet: no machine had one.
HAS_CUDA = CUDA in ort.get_available_providers()
NO_CUDA = None if gpu_models() else "this machine has no NVIDIA GPU whose driver is seen"
if not HAS_CUDA:
    NO_CUDA = "the installed ONNX Runtime has no CUDA"
NO_TENSORRT = tensorrt_obstacle()

needs_cuda = pytest.mark.skipif(NO_CUDA is not None, reason=f"needs a GPU: {NO_CUDA}")
needs_tensorrt = pytest.mark.skipif(
    (NO_TENSORRT or NO_CUDA) is not None, reason=f"needs TensorRT on a GPU: {NO_TENSORRT or NO_CUDA}"
)
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
