"""The memory that all ONNX Runtime sessions of a process take turns in, and how it is given back.

A session on the processor keeps what its runs need at most for the next one. Sessions that take turns need that once,
not each its own, so they share one arena.
"""

from functools import cache

import numpy as np
import onnxruntime as ort

#: Of ONNX, in protocol buffers: version 8, opset 17, one Identity node from a float ``x`` (1,) to ``y``.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02"
    "080142040a001011"
)


def join_arena(options: ort.SessionOptions) -> None:
    """Have a session that is opened with ``options`` use the shared arena."""
    _open_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")


def shrink_arena() -> None:
    """Give back what no run uses right now; the next run takes it anew.

    ONNX Runtime does so at the end of a run that asks for it. This is one of a graph that does nothing.
    """
    asks = ort.RunOptions()
    asks.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _idle_session().run(None, {"x": np.zeros(1, np.float32)}, asks)


@cache  # once in a process
def _open_arena() -> None:
    processor = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(processor, None)


@cache
def _idle_session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    join_arena(options)
    return ort.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"])
