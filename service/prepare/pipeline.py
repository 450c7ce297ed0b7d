"""The order of preparation, its progress and the final write. Nothing else."""

import copy
import datetime
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxruntime
import torch

import service
from service.bundle import store
from service.bundle.health import SCHEMA_VERSION as HEALTH_SCHEMA
from service.bundle.manifest import BundleManifest, GraphSpec, InputSpec, ModelSpec, WeightsSpec
from service.bundle.probe import SCHEMA_VERSION as PROBE_SCHEMA
from service.errors import UnsupportedModel
from service.measurement.runner import DEFAULT_BUDGET_S, DEFAULT_ROUNDS
from service.prepare.bn_stats import BatchNormStats, collect_bn_stats
from service.prepare.checkpoint import HeadKind, LoadedModel, choose_head, drop_unused_head, load_model
from service.prepare.dataflow import Dataflow, observe_dataflow
from service.prepare.deployed_network import DeployedNetwork, head_spec
from service.prepare.export import OPSET, check_graph_outputs, export_onnx
from service.prepare.fold import FoldResult, fold_batchnorm
from service.prepare.health import assess_health, open_ledger
from service.prepare.latency_arms import run_latency
from service.prepare.layer_tree import describe_layers
from service.prepare.ledger import Ledger
from service.prepare.probe import write_probe
from service.prepare.proof_inputs import ProofInput, proof_inputs
from service.prepare.self_check import make_self_check
from service.prepare.ultralytics_runtime import ULTRALYTICS_VERSION
from service.prepare.verify import require_pass, verify_fold
from service.prepare.weights import Checkpoint, WeightsRequest, embedded_confidence, resolve_weights
from service.settings import Settings

#: Of checkpoints whose best threshold nobody has measured: what Ultralytics' predict takes.
USUAL_CONFIDENCE = 0.25


class Progress(Protocol):
    """Told what is going on; the command line draws it."""

    def step(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Enter one step; the callable inside takes (done, total) for steps that can tell."""
        ...


@dataclass(frozen=True)
class LatencyEffort:
    """How long to measure: at most ``rounds``, stopping early after ``budget_s`` seconds."""

    rounds: int = DEFAULT_ROUNDS
    budget_s: float = DEFAULT_BUDGET_S


@dataclass(frozen=True)
class _Subject:
    """One checkpoint on its way through the pipeline, with the network in each of its forms."""

    checkpoint: Checkpoint
    loaded: LoadedModel
    head: HeadKind
    reference: torch.nn.Module
    dataflow: Dataflow
    result: FoldResult


def prepare_bundle(settings: Settings, progress: Progress, effort: LatencyEffort, threads: int) -> Path:
    """Weights to bundle: read, fold, prove, export, measure, write.

    Args:
        threads: threads the network is measured with.

    Returns:
        The folder of the finished bundle.

    Raises:
        PrepareError: any step failed; nothing was left behind that serving would accept.
    """
    store.require_writable(settings.bundle_dir)
    with progress.step("Weights"):
        checkpoint = resolve_weights(
            WeightsRequest(
                settings.weights,
                settings.weights_sha256,
                settings.download_timeout_s,
                settings.bundle_dir / "downloads",
            )
        )
        loaded = load_model(checkpoint.path)
        _require_stride(loaded, settings.imgsz)
    with progress.step("BatchNorm statistics"):
        subject, stats = _read_and_fold(checkpoint, loaded, settings)
    with progress.step("Proof of the fold"):
        inputs = proof_inputs(settings.imgsz)
        certificate = verify_fold(
            subject.reference, subject.result, inputs, head=subject.head, checkpoint_sha256=checkpoint.sha256
        )
        require_pass(certificate)
    key = store.bundle_key(settings.weights, settings.imgsz, settings.head, settings.default_conf)
    confidence = _default_confidence(checkpoint, settings.default_conf)
    version = _version(checkpoint, settings.imgsz, subject.head, confidence)
    with store.bundle_writer(settings.bundle_dir, f"{key}-{version}") as folder:
        store.write_json(folder / store.CERTIFICATE, certificate)
        with progress.step("BatchNorm health"):
            ledger = open_ledger(subject.result, subject.head, settings.imgsz)
            _write_batchnorm(folder, subject, stats, ledger)
        deployed, reference = _export(folder, subject, inputs, settings.imgsz, progress)
        _write_self_check(folder, subject, inputs, progress)
        with progress.step("Probe"):
            macs = ledger.macs_of_each()
            probe = write_probe(folder / store.DEPLOYED, folder / store.PROBE_GRAPH, stats.report, macs, settings.imgsz)
            store.write_json(folder / store.PROBE, probe)
        _measure(folder, subject, settings.imgsz, threads, effort, progress)
        manifest = BundleManifest(
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            model=_model_spec(subject, version, settings.imgsz, confidence),
            weights=_weights_spec(checkpoint),
            deployed=deployed,
            reference=reference,
            tools=_tools(),
            files=store.fingerprint_files(folder),
        )
        store.write_json(folder / store.MANIFEST, manifest)
    return settings.bundle_dir / f"{key}-{version}"


def _read_and_fold(checkpoint: Checkpoint, loaded: LoadedModel, settings: Settings) -> tuple[_Subject, BatchNormStats]:
    head = choose_head(loaded.network, settings.head)
    reference = copy.deepcopy(loaded.network)
    drop_unused_head(reference, head)
    dataflow = observe_dataflow(reference, _side(loaded.network))
    everything = observe_dataflow(loaded.network, _side(loaded.network))
    stats = collect_bn_stats(loaded.network, dataflow.sites, everything.sites, head)
    result = fold_batchnorm(reference, dataflow.sites)
    return _Subject(checkpoint, loaded, head, reference, dataflow, result), stats


def _largest_stride(network: torch.nn.Module) -> int:
    return int(torch.as_tensor(network.stride).max())


def _require_stride(loaded: LoadedModel, imgsz: int) -> None:
    stride = _largest_stride(loaded.network)
    if imgsz % stride:
        below = imgsz // stride * stride
        raise UnsupportedModel(
            f"{loaded.name} halves its input down to 1/{stride}, so YOLOFOLD_IMGSZ must be a multiple of {stride}, "
            f"such as {below} or {below + stride}, not {imgsz}."
        )


def _side(network: torch.nn.Module) -> int:
    # The smallest picture in which the coarsest map is not a single cell.
    return 2 * _largest_stride(network)


def _write_batchnorm(folder: Path, subject: _Subject, stats: BatchNormStats, ledger: Ledger) -> None:
    health = assess_health(stats, subject.dataflow.sites, subject.reference, subject.result, ledger)
    store.write_json(folder / store.BN_STATS, stats.report)
    store.write_json(folder / store.HEALTH, health.report)
    np.savez(folder / store.BN_ARRAYS, allow_pickle=False, **stats.arrays, **health.arrays)
    tree = describe_layers(subject.loaded.network, subject.dataflow, stats.report)
    store.write_json(folder / store.LAYERS, tree)


def _export(
    folder: Path, subject: _Subject, inputs: list[ProofInput], imgsz: int, progress: Progress
) -> tuple[GraphSpec, GraphSpec]:
    specs = []
    for file, network, kept in (
        (store.DEPLOYED, subject.result.network, len(subject.result.unfoldable)),
        (store.REFERENCE, subject.reference, len(subject.dataflow.sites)),
    ):
        with progress.step(f"Export {file}"):
            deployed = DeployedNetwork(network, subject.head).eval()
            specs.append(export_onnx(deployed, folder / file, imgsz, kept))
            check_graph_outputs(folder / file, deployed, inputs)
    return specs[0], specs[1]


def _write_self_check(folder: Path, subject: _Subject, inputs: list[ProofInput], progress: Progress) -> None:
    with progress.step("Self-check"):
        spec, arrays = make_self_check(
            DeployedNetwork(subject.reference, subject.head).eval(),
            DeployedNetwork(subject.result.network, subject.head).eval(),
            folder / store.DEPLOYED,
            inputs,
        )
    store.write_json(folder / store.SELF_CHECK, spec)
    np.savez_compressed(folder / store.SELF_CHECK_ARRAYS, allow_pickle=False, **arrays)


def _measure(
    folder: Path, subject: _Subject, imgsz: int, threads: int, effort: LatencyEffort, progress: Progress
) -> None:
    with progress.step("Latency") as advance:
        report = run_latency(
            DeployedNetwork(subject.reference, subject.head).eval(),
            DeployedNetwork(subject.result.network, subject.head).eval(),
            folder / store.REFERENCE,
            folder / store.DEPLOYED,
            imgsz=imgsz,
            threads=threads,
            rounds=effort.rounds,
            budget_s=effort.budget_s,
            progress=advance,
        )
    store.write_json(folder / store.LATENCY, report)


def _default_confidence(checkpoint: Checkpoint, asked: float | None) -> float:
    if asked is not None:
        return asked
    return embedded_confidence() if checkpoint.source == "embedded" else USUAL_CONFIDENCE


def _version(checkpoint: Checkpoint, imgsz: int, head: HeadKind, confidence: float) -> str:
    parts: dict[str, str | int | float | None] = {"weights": checkpoint.sha256, "imgsz": imgsz, "head": head}
    parts |= {"health_schema": HEALTH_SCHEMA, "probe_schema": PROBE_SCHEMA, "default_confidence": confidence}
    return store.content_version(parts | {"precision": "fp32", "opset": OPSET} | _tools())


def _model_spec(subject: _Subject, version: str, imgsz: int, confidence: float) -> ModelSpec:
    return ModelSpec(
        name=subject.loaded.name,
        version=version,
        architecture=subject.loaded.architecture,
        parameters=sum(p.numel() for p in subject.result.network.parameters()),
        classes=subject.loaded.classes,
        default_confidence=confidence,
        input=InputSpec(height=imgsz, width=imgsz),
        head=head_spec(subject.head),
    )


def _weights_spec(checkpoint: Checkpoint) -> WeightsSpec:
    return WeightsSpec(
        requested=checkpoint.requested,
        source=checkpoint.source,
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        bytes=checkpoint.path.stat().st_size,
        note=checkpoint.note,
    )


def _tools() -> dict[str, str]:
    return {
        "yolofold": service.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": ULTRALYTICS_VERSION,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
