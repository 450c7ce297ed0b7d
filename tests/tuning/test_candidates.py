"""Which candidates there are: what is installed, what the processor can do, and what the settings leave."""

from dataclasses import replace
from typing import Any

import pytest

from service.settings import load_settings
from service.tuning.candidates import Installed, Listing, allowed, list_candidates

NO_INT8: dict[str, Any] = {"int8": None, "no_int8": "the bundle holds no quantized graph"}
QUANTIZED: dict[str, Any] = {"int8": "int8+bf16", "no_int8": None}
GPU: dict[str, Any] = {"cuda": True, "no_tensorrt": None, "fp16": True}
CPU: dict[str, Any] = {"cuda": False, "no_tensorrt": "the installed ONNX Runtime has no TensorRT", "fp16": True}
EVERYTHING = Installed(**GPU, no_openvino=None, bf16=True, **QUANTIZED)
NO_FP16 = replace(EVERYTHING, fp16=False)
NO_TENSORRT = replace(EVERYTHING, no_tensorrt="its libraries cannot be loaded")
NO_GPU = Installed(**CPU, no_openvino=None, bf16=True, **NO_INT8)
NO_BF16 = Installed(**CPU, no_openvino=None, bf16=False, int8="int8+fp32", no_int8=None)
NO_OPENVINO = Installed(**CPU, no_openvino="it is not installed", bf16=False, **NO_INT8)
ORT, CUDA = ("onnxruntime", "cpu", "fp32"), ("onnxruntime", "cuda", "tf32")
CUDA_FP16 = ("onnxruntime", "cuda", "fp16")
TENSORRT, TENSORRT_FP16 = ("tensorrt", "cuda", "tf32"), ("tensorrt", "cuda", "fp16")
ON_GPU = [CUDA, CUDA_FP16, TENSORRT, TENSORRT_FP16]
OPENVINO, BF16 = ("openvino", "cpu", "fp32"), ("openvino", "cpu", "bf16")
INT8, INT8_FP32 = ("openvino", "cpu", "int8+bf16"), ("openvino", "cpu", "int8+fp32")


def listed(installed: Installed = NO_GPU, cores: int = 2, **settings: Any) -> Listing:
    return list_candidates(load_settings({}, engine="auto", **settings), installed, cores)


def kinds(listing: Listing) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(candidate.kind for candidate in listing.candidates))


def layouts(listing: Listing, kind: tuple[str, str, str]) -> list[tuple[int, int]]:
    """Threads and workers where pictures run one by one."""
    return [(threads, workers) for threads, workers, size in all_layouts(listing, kind) if size == 1]


def all_layouts(listing: Listing, kind: tuple[str, str, str]) -> list[tuple[int, int, int]]:
    """Threads, workers and the most pictures in a run."""
    mine = [candidate for candidate in listing.candidates if candidate.kind == kind]
    return [(candidate.threads, candidate.workers, candidate.max_batch_size) for candidate in mine]


@pytest.mark.parametrize(
    ("installed", "settings", "expected"),
    [
        (EVERYTHING, {}, [ORT, *ON_GPU, OPENVINO, BF16, INT8]),
        (NO_FP16, {}, [ORT, CUDA, TENSORRT, OPENVINO, BF16, INT8]),
        (NO_TENSORRT, {}, [ORT, CUDA, CUDA_FP16, OPENVINO, BF16, INT8]),
        (NO_GPU, {}, [ORT, OPENVINO, BF16]),
        (NO_BF16, {}, [ORT, OPENVINO, INT8_FP32]),
        (NO_OPENVINO, {}, [ORT]),
        (EVERYTHING, {"precision": "fp32"}, [ORT, OPENVINO]),
        (EVERYTHING, {"precision": "bf16"}, [BF16]),
        (EVERYTHING, {"precision": "int8"}, [INT8]),
        (NO_BF16, {"precision": "int8"}, [INT8_FP32]),
        (NO_GPU, {"precision": "int8"}, []),
        (EVERYTHING, {"device": "cuda", "precision": "int8"}, []),
        (EVERYTHING, {"device": "cuda"}, ON_GPU),
        (EVERYTHING, {"precision": "fp16"}, [CUDA_FP16, TENSORRT_FP16]),
        (NO_FP16, {"precision": "fp16"}, []),
        (NO_GPU, {"precision": "fp16"}, []),
        (EVERYTHING, {"device": "cpu", "precision": "fp16"}, []),
        (EVERYTHING, {"device": "cpu"}, [ORT, OPENVINO, BF16, INT8]),
        (NO_GPU, {"device": "cuda"}, []),
        (EVERYTHING, {"device": "cuda", "precision": "bf16"}, []),
    ],
)
def test_kinds(installed: Installed, settings: dict[str, str], expected: list[tuple[str, str, str]]) -> None:
    listing = listed(installed, **settings)
    assert kinds(listing) == expected
    assert len(listing.not_tried) == 8 - len(expected)


def test_what_is_left_out_says_why() -> None:
    assert listed().not_tried == [
        "ONNX Runtime on CUDA: the installed ONNX Runtime has no CUDA",
        "ONNX Runtime on CUDA in fp16: the installed ONNX Runtime has no CUDA",
        "TensorRT: the installed ONNX Runtime has no TensorRT",
        "TensorRT in fp16: the installed ONNX Runtime has no TensorRT",
        "OpenVINO in int8: the bundle holds no quantized graph",
    ]
    made_by = "the bundle holds no graph in fp16, which `python -m service halve` makes"
    assert listed(NO_FP16).not_tried == [f"ONNX Runtime on CUDA in fp16: {made_by}", f"TensorRT in fp16: {made_by}"]
    assert listed(NO_BF16).not_tried[-1] == "OpenVINO in bf16: this processor has no instructions for it"
    assert listed(NO_BF16, precision="fp32").not_tried[-1] == "OpenVINO in int8: YOLOFOLD_PRECISION=fp32"
    bare = listed(NO_OPENVINO, precision="bf16")
    assert bare.not_tried[0] == "ONNX Runtime in fp32: YOLOFOLD_PRECISION=bf16"
    assert bare.not_tried[-2:] == ["OpenVINO in bf16: it is not installed", "OpenVINO in int8: it is not installed"]


@pytest.mark.parametrize(
    ("cores", "settings", "expected"),
    [
        (1, {}, [(1, 1)]),
        (2, {}, [(0, 2)]),
        (4, {}, [(0, 4), (2, 4)]),
        # Under load four runs of two threads each; eight of one thread are something else.
        (8, {}, [(0, 4), (4, 4), (1, 8)]),
        # No more runs at once than memory should be spent on.
        (64, {}, [(0, 4), (32, 4), (4, 16)]),
        (8, {"threads": 3}, [(3, 4)]),
        (8, {"threads": 1}, [(1, 8)]),
        (2, {"threads": 2}, [(2, 2)]),
        (8, {"workers": 1}, [(8, 1)]),
        (8, {"workers": 4}, [(0, 4), (4, 4)]),
        (2, {"workers": 6}, [(0, 6)]),
        (2, {"threads": 2, "workers": 3}, [(2, 3)]),
        (2, {"threads": 5}, [(5, 2)]),
    ],
)
@pytest.mark.parametrize("kind", [ORT, OPENVINO, BF16])
def test_cores_are_shared_out(
    kind: tuple[str, str, str], cores: int, settings: dict[str, int], expected: list[tuple[int, int]]
) -> None:
    assert layouts(listed(cores=cores, **settings), kind) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (ORT, {}, [(0, 4, 1), (4, 4, 1), (1, 8, 1), (8, 8, 4)]),
        (CUDA, {}, [(8, 4, 1), (8, 8, 4), (8, 32, 16)]),
        (CUDA_FP16, {}, [(8, 4, 1), (8, 8, 4), (8, 32, 16)]),
        # An engine has to be built for each size up to the largest.
        (TENSORRT, {}, [(8, 4, 1), (8, 8, 4)]),
        (TENSORRT_FP16, {"max_batch_size": 6}, [(8, 12, 6)]),
        (OPENVINO, {}, [(0, 4, 1), (4, 4, 1), (1, 8, 1)]),
        (ORT, {"max_batch_size": 1}, [(0, 4, 1), (4, 4, 1), (1, 8, 1)]),
        (ORT, {"max_batch_size": 6}, [(8, 12, 6)]),
        (ORT, {"max_batch_size": 6, "threads": 3}, [(3, 12, 6)]),
        (OPENVINO, {"max_batch_size": 6}, []),
        (CUDA, {"max_batch_size": 6, "workers": 7}, [(8, 7, 6)]),
        # Too few callers to fill a batch.
        (ORT, {"workers": 3}, [(0, 3, 1), (2, 3, 1)]),
        (CUDA, {"workers": 5}, [(8, 5, 1), (8, 5, 4)]),
    ],
)
def test_pictures_share_runs(
    kind: tuple[str, str, str], settings: dict[str, int], expected: list[tuple[int, int, int]]
) -> None:
    assert all_layouts(listed(EVERYTHING, 8, **settings), kind) == expected


def test_there_are_never_many_candidates() -> None:
    """Three layouts of the four kinds on the processor, one of the GPU's four, and seven with batches."""
    assert max(len(listed(EVERYTHING, cores).candidates) for cores in range(1, 129)) <= 23


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"precision": "int8"},
        {"precision": "fp16"},
        {"device": "cpu"},
        {"threads": 1},
        {"workers": 1, "threads": 2},
        {"max_batch_size": 1},
        {"max_batch_size": 4},
    ],
)
def test_a_candidate_is_allowed_exactly_where_it_could_be_listed(settings: dict[str, Any]) -> None:
    everything = listed(EVERYTHING).candidates + listed(EVERYTHING, workers=1).candidates
    mine = load_settings({}, engine="auto", **settings)
    for candidate in everything:
        fits = all(
            settings.get(name) in (None, getattr(candidate, name)) for name in ("threads", "workers", "max_batch_size")
        )
        assert allowed(candidate, mine) == (fits and candidate.kind in kinds(listed(EVERYTHING, **settings)))


@pytest.mark.parametrize("listing", [listed(EVERYTHING)])
def test_a_candidate_becomes_settings(listing: Listing) -> None:
    before = load_settings({}, engine="auto", queue_size=7)
    for candidate in listing.candidates:
        after = candidate.settle(before)
        assert (after.engine, after.device, after.queue_size) == (candidate.engine, candidate.device, 7)
        assert (after.threads, after.workers) == (candidate.threads, candidate.workers)
        assert after.max_batch_size == candidate.max_batch_size
        named = {"tf32": None, "int8+bf16": "int8"}
        assert after.precision == named.get(candidate.precision, candidate.precision)
