"""What is loaded for each candidate is what would be served."""

from pathlib import Path

import pytest

from service.bundle.store import Bundle
from service.errors import EngineError
from service.inference.batching_engine import BatchingEngine
from service.inference.by_load_engine import ByLoadEngine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.tensorrt_engine import TENSORRT, tensorrt_obstacle
from service.settings import load_settings
from service.tuning.candidates import Installed, Listing, list_candidates
from service.tuning.measure import build_engines, load_entries
from service.tuning.process import longest_s
from tests.inference.processors import NO_TENSORRT
from tests.inference.stand_in_tensorrt import needs_compiler, run_with_tensorrt
from tests.tuning.choices import candidate

NOTHING_ELSE = Installed(
    cuda=False,
    no_tensorrt="it is not installed",
    no_openvino="it is not installed",
    bf16=False,
    int8=None,
    no_int8="it is not installed",
    fp16=False,
)


@pytest.mark.parametrize("threads", [0, 2])
def test_each_candidate_gets_the_engine_it_would_be_served_by(bundle: Bundle, threads: int) -> None:
    cores = 2
    settings = load_settings({}, engine="auto", device="cpu", threads=threads, workers=8)
    listing = list_candidates(settings, NOTHING_ELSE, cores)
    plain = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", cores)
    handed_over = [plain]
    loaded = {
        entry.candidate: entry.load() for entry in load_entries(listing, bundle, settings, cores, handed_over, {})
    }
    assert not handed_over, "nothing is kept that is no candidate"
    batched = [engine for candidate, engine in loaded.items() if candidate.max_batch_size > 1]
    single = [engine for candidate, engine in loaded.items() if candidate.max_batch_size == 1]
    assert [type(engine) for engine in batched] == [BatchingEngine]
    assert [type(engine) for engine in single] == [OnnxRuntimeEngine if threads else ByLoadEngine]
    # The graph that the reference comes from is not loaded twice.
    assert any(engine is plain for engine in loaded.values()) == bool(threads)


def test_time_is_counted_anew_only_where_tensorrt_is_a_candidate(bundle: Bundle) -> None:
    settings = load_settings({}, engine="auto", device="cpu")
    assert not build_engines(list_candidates(settings, NOTHING_ELSE, 2), bundle, settings, 2)
    with_tensorrt = [candidate(), candidate("tensorrt", "tf32", device="cuda")]
    assert [*build_engines(Listing(with_tensorrt, []), bundle, settings, 2)] == with_tensorrt[1:]


@pytest.mark.skipif(NO_TENSORRT is None, reason="TensorRT is there")
def test_what_tensorrt_cannot_build_is_said_when_it_is_loaded_and_not_before(bundle: Bundle) -> None:
    settings, listing = load_settings({}, engine="auto"), Listing([candidate("tensorrt", "tf32", device="cuda")], [])
    built = build_engines(listing, bundle, settings, 2)
    (entry,) = load_entries(listing, bundle, settings, 2, [], built)
    with pytest.raises(EngineError, match="TensorRT cannot be used") as raised:
        entry.load()
    assert raised.value is built[entry.candidate], "it is not built a second time"


@pytest.mark.skipif(NO_TENSORRT is None, reason="TensorRT is there")
def test_libraries_that_are_missing_get_no_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    # As with onnxruntime-gpu, which lists the provider though its libraries are missing.
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])
    assert tensorrt_obstacle() is not None
    assert longest_s(load_settings({}, engine="auto")) == 300


_LONGEST = """
import onnxruntime
from service.settings import load_settings
onnxruntime.get_available_providers = lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"]
from service.tuning.process import longest_s
print(*(longest_s(load_settings({}, engine="auto", device=device)) for device in ("auto", "cpu")))
"""


@needs_compiler
def test_what_tensorrt_may_build_gets_an_hour(tmp_path: Path) -> None:
    """Its library can be loaded; the provider is one that this ONNX Runtime only says it has."""
    assert run_with_tensorrt(tmp_path, _LONGEST).split()[-2:] == ["3600.0", "300.0"]
