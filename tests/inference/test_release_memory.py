"""Memory that engines keep for the next run, given back in between: what the kernel counts, and answers after it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import onnx
import pytest

from service.bundle.store import Bundle
from service.inference import onnxruntime_arena
from service.inference.engine_choice import open_engine
from service.settings import load_settings
from tests.conftest import ROOT, clean_environ

_MEASURED = """
import sys
from pathlib import Path
import numpy as np
from service.bundle.store import load_bundle
from service.heap import give_back_freed, map_large_blocks
from service.inference.engine_choice import open_engine
from service.settings import load_settings

def held():
    give_back_freed()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

map_large_blocks()
engine = open_engine(load_bundle(Path(sys.argv[1])), load_settings({}, engine=sys.argv[2]), cores=2, workers=2)
picture = np.random.default_rng(0).integers(0, 255, (1, 640, 640, 3), np.uint8)
opened = held()
rows = [layout.run(picture) for layout in engine.layouts]
ran = held()
engine.release_memory()
released = held()
again = [layout.run(picture) for layout in engine.layouts]
print(ran - opened, ran - released, all(map(np.array_equal, rows, again)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is anonymous memory")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_runs_have_taken_is_given_back_and_taken_anew(bundle: Bundle, engine: str) -> None:
    command = [sys.executable, "-c", _MEASURED, str(bundle.path), engine]
    ran = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    taken, released, same = ran.stdout.split()
    assert same == "True"
    # Two planes of the first convolution, 16 channels of 320 x 320 in float32, are 13 MB.
    assert int(taken) > 13_000_000
    assert int(released) > 0.7 * int(taken)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_may_be_asked_for_while_runs_go_on(bundle: Bundle, engine: Literal["onnxruntime", "openvino"]) -> None:
    busy = open_engine(bundle, load_settings({}, engine=engine), cores=2, workers=2)
    picture = np.random.default_rng(0).integers(0, 255, (1, 640, 640, 3), np.uint8)
    expected = busy.run(picture)
    with ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(busy.run, picture) for _ in range(12)]
        while not answers[-1].done():
            busy.release_memory()
    for answer in answers:
        np.testing.assert_allclose(answer.result(), expected, atol=0.01)


def test_the_graph_that_asks_for_it_does_nothing() -> None:
    model = onnx.load_from_string(onnxruntime_arena._IDENTITY)
    onnx.checker.check_model(model)
    (node,) = model.graph.node
    assert node.op_type == "Identity"
    onnxruntime_arena.shrink_arena()
    (answer,) = onnxruntime_arena._idle_session().run(None, {"x": np.float32([7])})
    assert answer == 7
