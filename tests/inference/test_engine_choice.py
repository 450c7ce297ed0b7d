"""Which engine the settings give, and that none is given in place of another."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from service.bundle.manifest import RectSpec
from service.bundle.store import Bundle
from service.errors import EngineError, SettingsError
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import open_engine, require_precision, tensorrt_misfit
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.machine import usable_cores
from service.settings import load_settings
from tests.conftest import ROOT, SESSION_BUNDLE, clean_environ, command
from tests.inference.processors import HAS_CUDA, NO_TENSORRT


def choose(bundle: Bundle, *, cores: int = 2, workers: int = 2, **settings: Any) -> InferenceEngine:
    return open_engine(bundle, load_settings({}, **settings), cores=cores, workers=workers)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, OnnxRuntimeEngine),
        ({"engine": "onnxruntime"}, OnnxRuntimeEngine),
        ({"engine": "onnxruntime", "device": "cpu", "precision": "fp32"}, OnnxRuntimeEngine),
        ({"engine": "openvino"}, OpenVinoEngine),
        ({"engine": "openvino", "device": "cpu", "precision": "fp32"}, OpenVinoEngine),
    ],
)
def test_the_settings_choose(bundle: Bundle, settings: dict[str, str], kind: type) -> None:
    engine = choose(bundle, **settings)
    assert all(isinstance(layout, kind) for layout in engine.layouts)
    if settings.get("device") == "cpu":
        assert engine.precision == "fp32"


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_streams_share_the_cores_out(bundle: Bundle) -> None:
    """As many runs at once as there are workers, and no more threads in all than cores."""
    for threads, workers, streams in ((0, 1, 1), (2, 4, 1), (1, 1, 1), (1, 2, 2), (1, 4, 2)):
        engine = choose(bundle, cores=2, workers=workers, engine="openvino", threads=threads)
        assert isinstance(engine, OpenVinoEngine)
        assert (engine.threads, engine.streams) == (threads or 2, streams)


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_without_threads_the_cores_are_shared_out_by_load(
    bundle: Bundle, name: Literal["onnxruntime", "openvino"]
) -> None:
    alone, shared = choose(bundle, cores=2, workers=3, engine=name).layouts
    assert (alone.threads, shared.threads) == (2, 1)
    if isinstance(shared, OpenVinoEngine):
        assert shared.streams == 2


def test_onnx_runtime_has_no_bf16(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"YOLOFOLD_PRECISION=bf16.*YOLOFOLD_ENGINE=openvino.*PRECISION=fp32"):
        choose(bundle, precision="bf16")


def test_auto_is_no_engine(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="not been chosen"):
        choose(bundle, engine="auto")


def test_openvino_does_not_run_on_cuda(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"YOLOFOLD_DEVICE=cuda.*YOLOFOLD_ENGINE=onnxruntime"):
        choose(bundle, engine="openvino", device="cuda")


class CoarseEngine(OnnxRuntimeEngine):
    """Says of itself what the same engine says on CUDA."""

    precision = "tf32"


def test_fp32_on_demand_is_not_tf32(bundle: Bundle) -> None:
    engine = CoarseEngine(bundle.deployed_graph, "cpu", 1)
    require_precision(engine, load_settings({}))
    with pytest.raises(EngineError, match=r"YOLOFOLD_PRECISION=fp32.*tf32.*YOLOFOLD_PRECISION empty"):
        require_precision(engine, load_settings({}, precision="fp32"))


def test_without_the_package_serve_ends_with_the_reason(bundle_root: Path, tmp_path: Path) -> None:
    """Python runs sitecustomize before anything else; here it stands for an environment without OpenVINO."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root), port="0", engine="openvino")
    environ["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(command("serve"), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "EngineError: YOLOFOLD_ENGINE=openvino, but the package openvino cannot be loaded" in done.stderr
    assert "pip install openvino" in done.stderr and "YOLOFOLD_ENGINE=onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr
    ready = [sys.executable, "-c", "import service.api.server"]
    subprocess.run(ready, cwd=ROOT, env=environ, check=True, timeout=120)  # all else does without it


@pytest.mark.skipif(HAS_CUDA, reason="the installed ONNX Runtime has CUDA")
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_fp16_is_refused_without_a_gpu(halved: Bundle, device: str) -> None:
    with pytest.raises(EngineError, match=r"fp16 is for GPUs|has no CUDA provider"):
        choose(halved, precision="fp16", device=device)


def test_fp16_is_not_for_openvino(halved: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"fp16 is for GPUs.*leave YOLOFOLD_PRECISION empty"):
        choose(halved, engine="openvino", precision="fp16")


def test_a_bundle_without_a_graph_in_fp16_says_what_makes_one(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.engine_choice.choose_providers", lambda _: ["CUDAExecutionProvider"])
    with pytest.raises(SettingsError, match=r"holds no graph in fp16\. `python -m service halve`"):
        choose(bundle, precision="fp16")


@pytest.mark.skipif(NO_TENSORRT is None, reason="TensorRT is there")
def test_tensorrt_is_not_silently_replaced(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"TensorRT cannot be used: .*Set YOLOFOLD_ENGINE=onnxruntime"):
        choose(bundle, engine="tensorrt")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("input", {"rect": RectSpec(multiple=32, shortest=160)}, "takes pictures of many sizes"),
        ("head", {"kind": "one2many", "nms": "graph", "iou": 0.7}, "suppresses boxes in its graph"),
    ],
)
def test_tensorrt_gets_no_graph_whose_shapes_change(
    bundle: Bundle, part: str, change: dict[str, Any], words: str
) -> None:
    model = bundle.manifest.model
    model = model.model_copy(update={part: getattr(model, part).model_copy(update=change)})
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model}))
    with pytest.raises(SettingsError, match=f"{words}.*YOLOFOLD_ENGINE=onnxruntime"):
        choose(other, engine="tensorrt")
    assert words in (tensorrt_misfit(other) or "") and tensorrt_misfit(bundle) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cpu"}, "YOLOFOLD_DEVICE=cpu: TensorRT runs on NVIDIA's GPUs"),
        ({"precision": "fp32"}, "YOLOFOLD_PRECISION=fp32, but TensorRT multiplies in TF32"),
        ({"precision": "bf16"}, "YOLOFOLD_PRECISION=bf16"),
        ({"precision": "int8"}, "YOLOFOLD_PRECISION=int8"),
    ],
)
def test_what_tensorrt_is_not_given(bundle: Bundle, settings: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        choose(bundle, engine="tensorrt", **settings)
