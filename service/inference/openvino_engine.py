"""The deployed graph in OpenVINO, on the processor. Imported only when chosen: the package is optional."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from service.bundle.int8 import Int8Precision
from service.errors import EngineError
from service.inference.engine import INPUT, OUTPUT, InferenceEngine, Precision, require_rows
from service.openvino_properties import DEVICE, OPENVINO_FAULTS, openvino_properties, openvino_reason

#: What all that is not quantized is computed in.
_FLOATS: dict[Precision, Literal["fp32", "bf16"]] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "int8+fp32": "fp32",
    "int8+bf16": "bf16",
}


class OpenVinoEngine:
    """The deployed graph in OpenVINO."""

    def __init__(
        self,
        model_path: Path,
        precision: Literal["fp32", "bf16"] | Int8Precision,
        threads: int,
        streams: int,
        read: ov.Model | None = None,
    ) -> None:
        """Load the graph and check that it takes and gives what the contract says.

        It is loaded for one picture at a time: with its shapes fixed, the embedded YOLO26n at 640 px takes 26 MB less.
        The first batch of another size loads it again, for all other sizes.

        Args:
            model_path: ``model.onnx`` of a verified bundle, for int8 ``model.int8.onnx``, whose quantized convolutions
                OpenVINO finds by itself.
            precision: fp32 keeps OpenVINO from choosing bf16 by itself, which it does wherever there is bf16.
            threads: threads of one run, at least 1.
            streams: runs at once, at least 1; further ones wait. OpenVINO never takes more threads in all than there
                are cores, so more streams may leave each fewer threads: see ``threads`` for what one really has.
            read: what ``model_path`` holds, for one picture, where it has been read already.

        Raises:
            EngineError: the processor has no bf16, or the graph cannot be loaded or is of another kind.
        """
        floats = _FLOATS[precision]
        require_bf16(processor_capabilities(), floats)
        self._model_path, self._precision = model_path, precision
        self._properties = openvino_properties(floats, threads, streams)
        single = _read_graph(model_path, batch=1) if read is None else read
        self._single = _LoadedGraph(single, model_path, self._properties)
        self._any: _LoadedGraph | None = None
        self._loading = threading.Lock()

    @property
    def provider(self) -> str:
        """OpenVINO's name of the device."""
        return DEVICE

    @property
    def runtime(self) -> str:
        """OpenVINO and its release."""
        return f"OpenVINO {ov.get_version().split('-')[0]}"

    @property
    def precision(self) -> Precision:
        """What OpenVINO was told to compute in, and confirmed."""
        return self._precision

    @property
    def threads(self) -> int:
        """Threads of one run, as OpenVINO set them up."""
        return self._single.threads // self.streams

    @property
    def streams(self) -> int:
        """Runs that are worked on at once, as OpenVINO set them up."""
        return self._single.streams

    @property
    def runs_apart(self) -> bool:
        """True: runs are started on the streams' threads."""
        return True

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """This engine."""
        return (self,)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``."""
        if images.dtype != np.uint8:  # OpenVINO would convert it
            raise EngineError(f"The network takes uint8 pictures, not {images.dtype}.")
        rows = self._graph(len(images)).run(images)
        require_rows(rows, len(images))
        return rows

    def release_memory(self) -> None:
        """See ``InferenceEngine.release_memory``."""
        for graph in (self._single, self._any):
            if graph is not None:
                graph.release_memory()

    def _graph(self, batch: int) -> "_LoadedGraph":
        if batch == 1:
            return self._single
        with self._loading:
            if self._any is None:
                graph = _read_graph(self._model_path, batch=None)
                self._any = _LoadedGraph(graph, self._model_path, self._properties)
            return self._any


def open_engines(
    model_path: Path,
    precision: Literal["fp32", "bf16"] | Int8Precision,
    layouts: Sequence[tuple[int, int]],
) -> list[OpenVinoEngine]:
    """An engine for each of ``layouts``, threads and streams. Arguments and errors as for ``OpenVinoEngine``.

    The graph is read once for all of them: each keeps it with its weights besides what it made of them, and so all keep
    the same. The embedded YOLO26n twice takes 13 MB less this way.
    """
    graph = _read_graph(model_path, batch=1)
    return [OpenVinoEngine(model_path, precision, threads, streams, graph) for threads, streams in layouts]


def _read_graph(path: Path, batch: int | None) -> ov.Model:
    """The graph for one batch size, or for any."""
    try:
        model = ov.Core().read_model(str(path))
        _check_signature(model, path)
        if batch is not None:
            model.reshape([batch, *list(model.inputs[0].get_partial_shape())[1:]])
        return model
    except OPENVINO_FAULTS as error:
        raise EngineError(f"OpenVINO cannot load {path}: {openvino_reason(error)}") from error


class _LoadedGraph:
    """The graph ready to run, with the requests that run it."""

    def __init__(self, model: ov.Model, path: Path, properties: dict[str, object]) -> None:
        try:
            if model.inputs[0].get_partial_shape().is_dynamic:
                # What is prepared for each size would be kept for the next of it: hundreds of MB for those of a
                # network that leaves padding out. Without, pictures of two sizes in turn take some 10 % longer.
                properties = properties | {"CPU_RUNTIME_CACHE_CAPACITY": 0}
            self._compiled = ov.Core().compile_model(model, DEVICE, properties)
        except OPENVINO_FAULTS as error:
            raise EngineError(f"OpenVINO cannot load {path}: {openvino_reason(error)}") from error
        wanted, taken = properties["INFERENCE_PRECISION_HINT"], self._compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != wanted:
            raise EngineError(f"OpenVINO was told to compute in {wanted} and took {taken}.")
        # One thread at a time may use a request, so each run takes one and puts it back; what a list does is atomic.
        # There are never more of them than there were runs at once.
        self._idle: list[ov.InferRequest] = []
        if model.inputs[0].get_partial_shape()[0].is_static:
            self._idle.append(self._first_request())

    def _first_request(self) -> ov.InferRequest:
        """One whose tensors have been looked at.

        What does so first in a process fills tables of the bindings, now and then without Python's lock. Of two threads
        that come to it at once, one would wait for the table with the lock, the other for the lock with the table.
        """
        request = self._compiled.create_infer_request()
        for name in (INPUT, OUTPUT):
            _ = request.get_tensor(name).data
        return request

    @property
    def threads(self) -> int:
        """Of all streams together; OpenVINO allows one per stream at least."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))

    @property
    def streams(self) -> int:
        return int(self._compiled.get_property("NUM_STREAMS"))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Not `infer`: started so, it runs on the streams' own threads, however many callers there are.
            # Its caller waits, so the picture need not be copied.
            request.start_async({INPUT: images}, share_inputs=True)
            request.wait()
            rows: NDArray[np.float32] = request.get_tensor(OUTPUT).data.copy()  # the next run overwrites the original
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {openvino_reason(error)}") from error  # and the request is dropped
        self._idle.append(request)
        return rows

    def release_memory(self) -> None:
        with suppress(RuntimeError):  # OpenVINO refuses while a run needs it
            self._compiled.release_memory()


def processor_capabilities() -> list[str]:
    """What OpenVINO says that the processor can do, such as FP32 and BF16.

    Raises:
        EngineError: OpenVINO cannot use the processor.
    """
    try:
        return list(ov.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
    except OPENVINO_FAULTS as error:
        raise EngineError(f"OpenVINO cannot use the processor: {openvino_reason(error)}") from error


def require_bf16(capabilities: list[str], precision: Literal["fp32", "bf16"]) -> None:
    """Check that a processor can compute in ``precision``.

    Args:
        capabilities: what OpenVINO says that the processor can do.

    Raises:
        EngineError: bf16 is asked for, and the processor has no instructions for it.
    """
    if precision == "bf16" and "BF16" not in capabilities:
        raise EngineError(
            "YOLOFOLD_PRECISION=bf16, but this processor has no instructions for bf16 (AVX512_BF16, AMX-BF16 or their "
            "like). Set YOLOFOLD_PRECISION=fp32."
        )


def _check_signature(model: ov.Model, path: Path) -> None:
    ports = (*model.inputs, *model.outputs)
    found = [(*p.get_names(), p.get_element_type().get_type_name(), len(p.get_partial_shape())) for p in ports]
    if found != [(INPUT, "u8", 4), (OUTPUT, "f32", 3)]:
        raise EngineError(f"{path} maps {found}, not u8 {INPUT!r} (B, H, W, 3) to f32 {OUTPUT!r} (B, N, 6).")
    shape = model.inputs[0].get_partial_shape()
    if shape[3] != 3:
        raise EngineError(f"{path} takes {shape}, not (B, H, W, 3).")
