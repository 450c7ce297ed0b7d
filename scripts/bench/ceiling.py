"""The ceiling: how many images per second ONNX Runtime makes of a tensor that is ready, without any server.

    python -m scripts.bench.ceiling GRAPH CORES SECONDS

Prints images per second of one session with CORES threads and of CORES sessions with one thread each, as JSON. The
engine of a server cannot do better; what it does less is decoding, the wire and waiting.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort


def measure(graph: Path, sessions: int, threads: int, seconds: float) -> float:
    """Images per second of ``sessions`` loops at once, each with a session of ``threads`` threads."""
    loops = [_open(graph, threads) for _ in range(sessions)]
    pixels = np.random.default_rng(0).integers(0, 256, (1, *_input_shape(loops[0])), np.uint8)
    feed = {loops[0].get_inputs()[0].name: pixels}
    rates = [0.0] * sessions
    together = threading.Barrier(sessions)

    def run(number: int) -> None:
        session, done = loops[number], 0
        session.run(None, feed)
        together.wait()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            session.run(None, feed)
            done += 1
        rates[number] = done / (time.perf_counter() - start)

    callers = [threading.Thread(target=run, args=(number,)) for number in range(sessions)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(rates)


def _open(graph: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _input_shape(session: ort.InferenceSession) -> tuple[int, int, int]:
    _, height, width, channels = session.get_inputs()[0].shape
    return height, width, channels


def main(graph: Path, cores: int, seconds: float) -> None:
    """Measure both ways and print them."""
    one_session = measure(graph, 1, cores, seconds)
    many_sessions = measure(graph, cores, 1, seconds)
    print(json.dumps({"one_session": one_session, "many_sessions": many_sessions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
