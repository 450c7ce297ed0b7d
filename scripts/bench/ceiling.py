"""The ceiling: how many images per second a bare engine makes of a tensor that is ready, without any server.

    python -m scripts.bench.ceiling GRAPH CORES SECONDS

Prints, as JSON and by engine and precision, images per second of one run at a time with CORES threads and of CORES runs
at once with one thread each: sessions in ONNX Runtime, streams in OpenVINO, where that is installed. A server cannot do
better with the same engine; what it does less is decoding, the wire and waiting.
"""

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

#: Runs the network once on the tensor it gets.
Run = Callable[[NDArray[np.uint8]], object]
#: From runs at once and threads of each to as many ways to run.
Open = Callable[[int, int], Sequence[Run]]


def measure(runs: Sequence[Run], shape: tuple[int, int, int], seconds: float) -> float:
    """Images per second of so many loops at once, on noise of (H, W, C)."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    rates = [0.0] * len(runs)
    together = threading.Barrier(len(runs))

    def loop(number: int) -> None:
        run, done = runs[number], 0
        run(pixels)
        together.wait()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            run(pixels)
            done += 1
        rates[number] = done / (time.perf_counter() - start)

    callers = [threading.Thread(target=loop, args=(number,)) for number in range(len(runs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(rates)


def engines(graph: Path) -> dict[str, Open]:
    """Every engine and precision that this machine has, by name."""
    found: dict[str, Open] = {"ONNX Runtime in fp32": lambda runs, threads: _sessions(graph, runs, threads)}
    if importlib.util.find_spec("openvino") is not None:
        from service.inference.openvino_engine import OpenVinoEngine, processor_capabilities

        def streams(precision: Any) -> Open:
            return lambda runs, threads: [OpenVinoEngine(graph, precision, threads, runs).run] * runs

        found["OpenVINO in fp32"] = streams("fp32")
        if "BF16" in processor_capabilities():
            found["OpenVINO in bf16"] = streams("bf16")
    return found


def _sessions(graph: Path, sessions: int, threads: int) -> list[Run]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads

    def opened() -> Run:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"images": pixels})

    return [opened() for _ in range(sessions)]


def _input_shape(graph: Path) -> tuple[int, int, int]:
    _, height, width, channels = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs()[0].shape
    return height, width, channels


def main(graph: Path, cores: int, seconds: float) -> None:
    """Measure every engine both ways and print them."""
    shape = _input_shape(graph)
    print(
        json.dumps(
            {
                name: {
                    "one_run": measure(opened(1, cores), shape, seconds),
                    "run_per_core": measure(opened(cores, 1), shape, seconds),
                }
                for name, opened in engines(graph).items()
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
