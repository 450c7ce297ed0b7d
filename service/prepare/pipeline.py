"""The order of preparation, its progress and the final write. Nothing else."""

import copy
import datetime
import platform
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx
import onnxruntime
import torch

import service
from service.bundle import store
from service.bundle.graph_fold import find_graph_flaw
from service.bundle.health import SCHEMA_VERSION as HEALTH_SCHEMA
from service.bundle.manifest import (
    BundleManifest,
    GraphSpec,
    HeadKind,
    InputSpec,
    ModelSpec,
    Recalibration,
    RectSpec,
    WeightsSpec,
)
from service.bundle.probe import SCHEMA_VERSION as PROBE_SCHEMA
from service.errors import ExportFailed, UnsupportedModel
from service.measurement.runtime_arms import AllowedDevice
from service.measurement.study import Effort, Place
from service.prepare.bn_stats import BatchNormStats, collect_bn_stats
from service.prepare.checkpoint import (
    LoadedModel,
    choose_head,
    drop_unused_head,
    has_two_heads,
    load_model,
    select_head,
)
from service.prepare.dataflow import Dataflow, observe_dataflow
from service.prepare.deployed_network import MAX_DET, DeployedNetwork, head_spec
from service.prepare.export import OPSET, check_graph_outputs, export_onnx
from service.prepare.fold import FoldResult, fold_batchnorm
from service.prepare.health import assess_health, open_ledger
from service.prepare.latency_arms import Networks, run_latency
from service.prepare.layer_tree import describe_layers
from service.prepare.ledger import Ledger
from service.prepare.probe import write_probe
from service.prepare.proof_inputs import ProofInput, proof_inputs
from service.prepare.self_check import make_self_check
from service.prepare.ultralytics_runtime import ULTRALYTICS_VERSION
from service.prepare.verify import require_pass, verify_fold
from service.prepare.weights import Checkpoint, WeightsRequest, embedded_confidence, embedded_head, resolve_weights
from service.settings import Settings

#: Of checkpoints whose best threshold nobody has measured: what Ultralytics' predict takes.
USUAL_CONFIDENCE = 0.25


class Progress(Protocol):
    """Told what is going on; the command line draws it."""

    def step(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Enter one step; the callable inside takes (done, total) for steps that can tell."""
        ...


@dataclass(frozen=True)
class Study:
    """How the finished graphs are measured: how much, and otherwise as ``Place`` says."""

    effort: Effort
    threads: int
    callers: int
    device: AllowedDevice


@dataclass(frozen=True)
class Choices:
    """What decides a bundle besides its checkpoint.

    Attributes:
        imgsz: side of the square input, pixels.
        head: the head to deploy.
        default_confidence: confidence that boxes must exceed when a request names none.
        rect: leave padding out of the square.
    """

    imgsz: int
    head: HeadKind
    default_confidence: float
    rect: bool


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Attributes:
        path: the folder of the finished bundle.
        trained_imgsz: side of the pictures the checkpoint was trained on, pixels, None where it does not say.
    """

    path: Path
    trained_imgsz: int | None


@dataclass(frozen=True)
class _Subject:
    """One checkpoint on its way through the pipeline, with the network in each of its forms.

    ``dataflow`` is that of ``reference``, which has one head; ``everything`` that of the checkpoint.
    """

    checkpoint: Checkpoint
    loaded: LoadedModel
    head: HeadKind
    reference: torch.nn.Module
    dataflow: Dataflow
    everything: Dataflow
    result: FoldResult


def prepare_bundle(settings: Settings, progress: Progress, effort: Effort, cores: int) -> Prepared:
    """Weights to bundle: read, fold, prove, export, measure, write.

    Args:
        effort: how much to measure.
        cores: what this process may use; the network is measured with the threads and workers that follow from it.

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
    choices = Choices(
        settings.imgsz,
        _head(checkpoint, loaded, settings.head),
        _default_confidence(checkpoint, settings.default_conf),
        settings.rect,
    )
    key = store.bundle_key(settings.weights, settings.imgsz, settings.head, settings.default_conf, rect=settings.rect)
    target = settings.bundle_dir / f"{key}-{bundle_version(checkpoint, choices)}"
    study = Study(effort, settings.threads_on(cores), settings.network_callers_on(cores), settings.device)
    return Prepared(build_bundle(checkpoint, loaded, choices, target, progress, study), loaded.trained_imgsz)


def build_bundle(
    checkpoint: Checkpoint,
    loaded: LoadedModel,
    choices: Choices,
    target: Path,
    progress: Progress,
    study: Study,
    recalibration: Recalibration | None = None,
) -> Path:
    """The way from an opened checkpoint to the bundle ``target``: fold, prove, export, measure, write.

    Args:
        recalibration: where the statistics of a recalibrated checkpoint come from. Its file is kept in the bundle,
            since nobody else has it.

    Raises:
        PrepareError: any step failed; nothing was left behind that serving would accept.
    """
    imgsz = choices.imgsz
    spec = InputSpec(height=imgsz, width=imgsz, rect=_rect(loaded.network, imgsz) if choices.rect else None)
    with progress.step("BatchNorm statistics"):
        subject, stats = _read_and_fold(checkpoint, loaded, choices.head)
    with progress.step("Proof of the fold"):
        inputs = proof_inputs(imgsz, spec.rect)
        certificate = verify_fold(
            subject.reference, subject.result, inputs, head=subject.head, checkpoint_sha256=checkpoint.sha256
        )
        require_pass(certificate)
    with store.bundle_writer(target.parent, target.name) as folder:
        store.write_json(folder / store.CERTIFICATE, certificate)
        with progress.step("BatchNorm health"):
            ledger = open_ledger(subject.result, subject.head, imgsz)
            _write_batchnorm(folder, subject, stats, ledger)
        deployed, reference = _export(folder, subject, inputs, spec, progress)
        _write_self_check(folder, subject, inputs, progress)
        with progress.step("Probe"):
            macs = ledger.macs_of_each()
            probe = write_probe(folder / store.DEPLOYED, folder / store.PROBE_GRAPH, stats.report, macs, imgsz)
            store.write_json(folder / store.PROBE, probe)
        graphs = folder / store.REFERENCE, folder / store.DEPLOYED
        place = Place(*graphs, imgsz, study.threads, study.callers, study.device)
        _measure(folder, subject, place, study.effort, progress)
        if recalibration is not None:
            shutil.copyfile(checkpoint.path, folder / checkpoint.path.name)
        manifest = BundleManifest(
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            model=_model_spec(subject, bundle_version(checkpoint, choices), spec, choices.default_confidence),
            weights=_weights_spec(checkpoint),
            deployed=deployed,
            reference=reference,
            tools=_tools(),
            recalibration=recalibration,
            files=store.fingerprint_files(folder),
        )
        store.write_json(folder / store.MANIFEST, manifest)
    return target


def _read_and_fold(checkpoint: Checkpoint, loaded: LoadedModel, head: HeadKind) -> tuple[_Subject, BatchNormStats]:
    reference = copy.deepcopy(loaded.network)
    drop_unused_head(reference, head)
    dataflow = observe_dataflow(reference, _side(loaded.network))
    everything = observe_dataflow(loaded.network, _side(loaded.network))
    stats = collect_bn_stats(loaded.network, dataflow.sites, everything.sites, head)
    result = fold_batchnorm(reference, dataflow.sites)
    return _Subject(checkpoint, loaded, head, reference, dataflow, everything, result), stats


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


def _rect(network: torch.nn.Module, imgsz: int) -> RectSpec:
    """How far padding may be left out: not below as many cells as the output has rows."""
    strides = [int(stride) for stride in torch.as_tensor(network.stride)]
    multiple = max(strides)
    fitting = (
        side
        for side in range(multiple, imgsz, multiple)
        if sum((imgsz // stride) * (side // stride) for stride in strides) >= MAX_DET
    )
    return RectSpec(multiple=multiple, shortest=next(fitting, imgsz))


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
    folder: Path, subject: _Subject, inputs: list[ProofInput], spec: InputSpec, progress: Progress
) -> tuple[GraphSpec, GraphSpec]:
    specs = []
    for file, network, kept in (
        (store.DEPLOYED, subject.result.network, subject.result.unfoldable),
        (store.REFERENCE, subject.reference, subject.dataflow.sites.values()),
    ):
        with progress.step(f"Export {file}"):
            deployed = DeployedNetwork(network, subject.head, any_size=spec.rect is not None).eval()
            nodes = sum(site.calls for site in kept)  # a layer that runs twice stands there twice
            specs.append(export_onnx(deployed, folder / file, spec.height, nodes, spec.rect))
            check_graph_outputs(folder / file, deployed, inputs)
    if flaw := find_graph_flaw(folder / store.REFERENCE, folder / store.DEPLOYED, len(subject.result.folded)):
        raise ExportFailed(f"What was exported would not be served: {flaw}.")
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


def _measure(folder: Path, subject: _Subject, place: Place, effort: Effort, progress: Progress) -> None:
    with progress.step("Latency") as advance:
        report = run_latency(
            _networks(subject, effort.thorough), place, effort, lambda _, done, wanted: advance(done, wanted)
        )
    store.write_json(folder / store.LATENCY, report)


def _networks(subject: _Subject, with_both_heads: bool) -> Networks:
    forms = [subject.reference, subject.result.network]
    if with_both_heads and has_two_heads(subject.loaded.network):
        whole = copy.deepcopy(subject.loaded.network)
        select_head(whole, subject.head)
        forms += [whole, fold_batchnorm(whole, subject.everything.sites).network]
    return Networks(*(DeployedNetwork(form, subject.head).eval() for form in forms))


def _head(checkpoint: Checkpoint, loaded: LoadedModel, asked: HeadKind | Literal["auto"]) -> HeadKind:
    if asked == "auto" and checkpoint.source == "embedded":
        return choose_head(loaded.network, asked, embedded_head())
    return choose_head(loaded.network, asked)


def _default_confidence(checkpoint: Checkpoint, asked: float | None) -> float:
    if asked is not None:
        return asked
    return embedded_confidence() if checkpoint.source == "embedded" else USUAL_CONFIDENCE


def bundle_version(checkpoint: Checkpoint, choices: Choices) -> str:
    """Twelve hexadecimal digits that name the bundle of this checkpoint and these choices."""
    parts: dict[str, str | int | float | None] = {"weights": checkpoint.sha256, "imgsz": choices.imgsz}
    parts |= {"head": choices.head, "default_confidence": choices.default_confidence, "health_schema": HEALTH_SCHEMA}
    parts |= {"probe_schema": PROBE_SCHEMA} | ({"rect": 1} if choices.rect else {})
    return store.content_version(parts | {"precision": "fp32", "opset": OPSET} | _tools())


def _model_spec(subject: _Subject, version: str, spec: InputSpec, confidence: float) -> ModelSpec:
    return ModelSpec(
        name=subject.loaded.name,
        version=version,
        architecture=subject.loaded.architecture,
        parameters=sum(p.numel() for p in subject.result.network.parameters()),
        classes=subject.loaded.classes,
        default_confidence=confidence,
        input=spec,
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
