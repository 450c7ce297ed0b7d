"""What a choice depends on: the processor, its share of it, the runtimes, the bundle and the settings."""

import hashlib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import onnxruntime as ort

import service
from service.bundle.store import DEPLOYED, Bundle
from service.machine import cpu_flags, cpu_model, gpu_driver, gpu_models
from service.settings import Settings
from service.tuning.records import Fingerprint

#: What pip knows TensorRT as: the libraries that are loaded, for each release of CUDA, else what requires them.
_TENSORRT = ("tensorrt-cu13-libs", "tensorrt-cu12-libs", "tensorrt-libs", "tensorrt")


def take_fingerprint(bundle: Bundle, settings: Settings, cores: int) -> Fingerprint:
    """Describe this machine, as far as this process may use it, and what would run on it. Loads no engine.

    Args:
        cores: that this process may use.
    """
    return Fingerprint(
        yolofold=service.__version__,
        bundle_version=bundle.manifest.model.version,
        graph_sha256=bundle.manifest.files[DEPLOYED].sha256,
        cpu=cpu_model(),
        cpu_flags_sha256=hashlib.sha256(" ".join(cpu_flags()).encode()).hexdigest(),
        cores=cores,
        gpus=gpu_models(),
        gpu_driver=gpu_driver(),
        onnxruntime=ort.__version__,
        onnxruntime_providers=ort.get_available_providers(),
        openvino=openvino_version(),
        tensorrt=tensorrt_version(),
        objective=settings.objective,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        workers=settings.workers,
        max_batch_size=settings.max_batch_size,
    )


def openvino_version() -> str | None:
    """OpenVINO's release without loading it, None where it is not installed."""
    if find_spec("openvino") is None:
        return None
    try:
        return version("openvino")
    except PackageNotFoundError:
        return "unknown"


def tensorrt_version() -> str | None:
    """TensorRT's release without loading it, None where pip installed none."""
    for name in _TENSORRT:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def machine_digest(fingerprint: Fingerprint) -> str:
    """Twelve hexadecimal digits that tell machines apart, not what is installed on them."""
    parts = (fingerprint.cpu, fingerprint.cpu_flags_sha256, str(fingerprint.cores), *fingerprint.gpus)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def differences(kept: Fingerprint, present: Fingerprint) -> list[str]:
    """What differs, in words."""
    return [
        f"{name} was {getattr(kept, name)}, is {getattr(present, name)}"
        for name in Fingerprint.model_fields
        if getattr(kept, name) != getattr(present, name)
    ]
