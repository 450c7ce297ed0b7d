"""The measurement itself. It runs in a process of its own: what it loads is given back when that ends."""

import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec

import onnxruntime as ort

from service.bundle.store import Bundle, load_bundle
from service.errors import fault_in_words
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import int8_obstacle, open_engine, tensorrt_misfit
from service.inference.onnxruntime_engine import CUDA, OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.inference.tensorrt_engine import tensorrt_obstacle
from service.machine import CpuWatch, has_int8_dot_products
from service.settings import Settings
from service.tuning.candidates import Installed, Listing, list_candidates
from service.tuning.pictures import comparison_pictures
from service.tuning.process import Order
from service.tuning.records import Candidate, EngineChoice
from service.tuning.selection import choose
from service.tuning.tolerance import Reference
from service.tuning.trial import Budget, Entry, Trial

#: A heavy network is compared on fewer pictures: as many as this many multiply-accumulates answer, three at least. A
#: YOLO26n and a YOLO26s at 640 px take 3 and 10 thousand million for a picture, so all and 14. Time must not decide it:
#: on fewer pictures other boxes are compared, and a busy machine would come to another verdict than an idle one.
_REFERENCE_MACS, _LEAST_PICTURES = 150e9, 3


def measure(order: Order) -> EngineChoice:
    """Measure what may be chosen and choose.

    Raises:
        EngineError: no candidate can serve.
        BundleError: the bundle cannot be read.
    """
    bundle, cores = load_bundle(order.bundle), order.fingerprint.cores
    begun = time.perf_counter()
    budget, others = Budget(), CpuWatch()
    listing = list_candidates(order.settings, find_installed(bundle), cores)
    if built := build_engines(listing, bundle, order.settings, cores):
        budget, others = Budget(), CpuWatch()  # what others did during minutes of building says nothing
    plain = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", cores)
    pictures = comparison_pictures(bundle)[: pictures_compared(bundle.health.network.macs)]
    reference = Reference(bundle, [plain.run(picture[None])[0] for picture in pictures])
    # Handed over, so that it is given back when it is out of the race, or at once where it is no candidate.
    entries = load_entries(listing, bundle, order.settings, cores, [plain], built)
    del plain
    trial = Trial(
        entries,
        pictures,
        reference,
        partial(check_engine, bundle),
        order.settings.objective,
        budget,
    )
    results = choose(trial.run(), order.settings.objective)
    return EngineChoice(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        measured_in_s=round(time.perf_counter() - begun, 3),
        other_cores=None if (busy := others.other_cores()) is None else round(busy, 2),
        fingerprint=order.fingerprint,
        pictures=len(pictures),
        tolerances={p: reference.tolerance_in_words(p) for p in {c.precision: None for c in listing.candidates}},
        not_tried=listing.not_tried,
        candidates=results,
    )


def pictures_compared(macs: int) -> int:
    """How many of the pictures a network of so many multiply-accumulates for each is compared on."""
    return max(_LEAST_PICTURES, int(_REFERENCE_MACS / max(macs, 1)))


def find_installed(bundle: Bundle) -> Installed:
    """What this machine could run the bundle with; loads OpenVINO where it is installed."""
    no_openvino, bf16 = _look_at_openvino()
    int8, no_int8 = None, "the bundle holds no quantized graph, which `python -m service quantize` makes"
    if bundle.int8 is not None:
        dot_products = has_int8_dot_products()
        int8 = bundle.int8.best(bf16=bf16, dot_products=dot_products)
        no_int8 = int8_obstacle(bundle.int8, dot_products)
    return Installed(
        cuda=CUDA in ort.get_available_providers(),
        no_tensorrt=tensorrt_obstacle() or tensorrt_misfit(bundle),
        no_openvino=no_openvino,
        bf16=bf16,
        int8=int8,
        no_int8=no_int8 if int8 is None else None,
        fp16=bundle.fp16 is not None,
    )


def _look_at_openvino() -> tuple[str | None, bool]:
    """Why it cannot be used, None where it can; and whether it has bf16 here."""
    if find_spec("openvino") is None:
        return "the package openvino is not installed", False
    try:
        from service.inference.openvino_engine import processor_capabilities  # optional

        return None, "BF16" in processor_capabilities()
    except ImportError as error:
        return str(error), False
    except Exception as error:  # a library that is broken in its own way must not take the others along
        return fault_in_words(error), False


def build_engines(
    listing: Listing, bundle: Bundle, settings: Settings, cores: int
) -> dict[Candidate, Exception | None]:
    """Have TensorRT build what it lacks before time is counted: it takes minutes, but only once.

    Returns:
        What each candidate of TensorRT failed with, None if it did not; where there is none, no time has gone by.
    """
    built: dict[Candidate, Exception | None] = {}
    for candidate in listing.candidates:
        if candidate.engine == "tensorrt":
            try:
                open_engine(bundle, candidate.settle(settings), cores=cores, workers=candidate.workers)
                built[candidate] = None
            except Exception as error:  # its verdict in the trial
                traceback.clear_frames(error.__traceback__)  # which hold what was loaded until then
                built[candidate] = error
    return built


def load_entries(
    listing: Listing,
    bundle: Bundle,
    settings: Settings,
    cores: int,
    loaded: list[OnnxRuntimeEngine],
    built: Mapping[Candidate, Exception | None],
) -> list[Entry]:
    """What loads each candidate as it would be served.

    Args:
        loaded: holds an engine of every core, which the candidate that is the same takes over; cleared where none is.
        built: see ``build_engines``; what failed there is not built again while time is counted.
    """
    if not any(_is_plain(candidate, cores) for candidate in listing.candidates):
        loaded.clear()

    def load(candidate: Candidate) -> InferenceEngine:
        if failure := built.get(candidate):
            raise failure
        if loaded and _is_plain(candidate, cores):
            return loaded.pop()
        settled = candidate.settle(settings)
        return open_engine(bundle, settled, cores=cores, workers=candidate.workers)

    return [Entry(candidate, partial(load, candidate)) for candidate in listing.candidates]


def _is_plain(candidate: Candidate, cores: int) -> bool:
    one_by_one = candidate.max_batch_size == 1
    return candidate.kind == ("onnxruntime", "cpu", "fp32") and candidate.threads == cores and one_by_one
