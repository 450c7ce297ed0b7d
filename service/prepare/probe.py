"""Chooses the layers whose statistics tell spoilt pictures best, writes the probe and holds it against torch."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.batchnorm import BatchNormLayer
from service.bundle.probe import MEAN, PICTURE, VARIANCE, Corruption, ProbeCandidate, ProbedLayer, ProbeSpec
from service.drift.covariance import shrink_covariance, whitening
from service.drift.distances import Law, log_variance_ratio, shift, training_law
from service.drift.features import feature_channels, join_laws, picture_features
from service.errors import ExportFailed
from service.prepare.bn_stats import BatchNormStats
from service.prepare.corruptions import CORRUPTIONS, Pixels
from service.prepare.deployed_network import DeployedNetwork
from service.prepare.fold import FoldResult
from service.prepare.operations import conv_positions
from service.prepare.probe_graph import ProbePoint, probe_points, write_probe_graph
from service.prepare.proof_inputs import ProofInput
from service.preprocessing.content import MULTIPLE, crop_content, network_tensor

Array = NDArray[np.float64]

#: The first folded convolutions are always probed: they see the pixels before anything is lost.
_FIRST = 2
_MOST_LAYERS = 6
#: The probe never costs more than this share of the network.
_MOST_COST = 0.25
#: A layer must raise the sensitivity to what is told worst by this factor, or it does not pay.
_LEAST_GAIN = 1.05
#: Each proof picture is cut into this many overlapping parts per side, each half as long as the picture.
_CUTS = 3
#: Bound on the errors beside torch: float32 gives some 1e-5 of either.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Subject:
    """What is known of the network that a probe is made of."""

    points: Sequence[ProbePoint]
    layers: Mapping[str, BatchNormLayer]
    laws: Mapping[str, Law]
    macs: Mapping[str, int]

    def cost(self, points: Sequence[ProbePoint]) -> int:
        """Multiply-accumulates of a graph that ends at these points."""
        convs = frozenset[str]().union(*(point.convs for point in points))
        return sum(self.macs[weights] for weights in convs)


def make_probe(
    stats: BatchNormStats,
    reference: nn.Module,
    deployed: DeployedNetwork,
    result: FoldResult,
    graph: Path,
    inputs: Sequence[ProofInput],
    path: Path,
) -> ProbeSpec:
    """Write ``probe.onnx`` to ``path``.

    Args:
        reference: the network with its BatchNorm, which the probe's figures must repeat.
        deployed: the folded network that ``graph`` was exported from.
        inputs: proof pictures, which choose the layers; noise, which no service gets, only takes part in the proof.

    Raises:
        ExportFailed: the graph has no two convolutions to probe, or the probe differs from torch.
    """
    model = onnx.load(graph)
    subject = _describe(stats, deployed, result, model, inputs[0])
    candidates = _affordable(subject)
    shifts = _measure_shifts(subject, candidates, model, inputs, path)
    chosen = _choose(subject, candidates, shifts)
    write_probe_graph(model, chosen, path)
    mean_error, log_variance_error = _compare_with_torch(subject, chosen, reference, inputs, path)
    if max(mean_error, log_variance_error) > _TOLERANCE:
        raise ExportFailed(
            f"{path.name} differs from the unfolded network by {mean_error:.2g} standard deviations in a mean and by "
            f"{log_variance_error:.2g} in the logarithm of a variance; {_TOLERANCE:g} is allowed."
        )
    return ProbeSpec(
        layers=[_probed(subject, point, number) for number, point in enumerate(chosen)],
        macs=subject.cost(chosen),
        network_macs=sum(subject.macs.values()),
        sensitivity=shifts.sensitivity(chosen),
        candidates=[
            ProbeCandidate(name=point.site.name, macs=subject.cost([point]), sensitivity=shifts.sensitivity([point]))
            for point in candidates
        ],
        mean_error=mean_error,
        log_variance_error=log_variance_error,
    )


def _describe(
    stats: BatchNormStats, deployed: DeployedNetwork, result: FoldResult, model: onnx.ModelProto, item: ProofInput
) -> _Subject:
    layers = {layer.name: layer for layer in stats.report.layers}
    points = probe_points(model, result.folded)
    laws = {}
    for name in (point.site.name for point in points):
        gamma, beta, var = (stats.arrays[f"{name}/{array}"] for array in ("gamma", "beta", "running_var"))
        laws[name] = training_law(gamma, beta, var, layers[name].eps)
    positions = conv_positions(deployed.network, lambda: deployed.candidates(item.image))
    weights = {name: deployed.network.get_submodule(name).weight for name in positions}
    macs = {
        f"network.{name}.weight": positions[name] * weight.numel()
        for name, weight in weights.items()
        if isinstance(weight, torch.Tensor)
    }
    return _Subject(points, layers, laws, macs)


def _affordable(subject: _Subject) -> list[ProbePoint]:
    most = _MOST_COST * sum(subject.macs.values())
    kept = [
        point
        for number, point in enumerate(subject.points)
        if number < _FIRST or (subject.cost([point]) <= most and subject.laws[point.site.name].alive.any())
    ]
    if len(kept) < _FIRST:
        raise ExportFailed(f"The deployed graph has {len(kept)} folded convolutions that can be probed, not {_FIRST}.")
    return kept


@dataclass(frozen=True)
class _Shifts:
    """Features of parts of the proof pictures, (parts, features), as they are and spoilt, and whose layer each is."""

    clean: Array
    spoilt: Mapping[Corruption, Array]
    layer_of_feature: NDArray[np.str_]

    def sensitivity(self, points: Sequence[ProbePoint]) -> dict[Corruption, float]:
        """How far each corruption moves these layers' features, in units of a window's own fluctuation.

        Of a window of W pictures the squared Mahalanobis length has, when nothing is wrong, the mean P / W and the
        deviation sqrt(2 P) / W for P features; a corruption adds the squared length of its shift.
        """
        chosen = np.isin(self.layer_of_feature, [point.site.name for point in points])
        count = int(chosen.sum())
        if not count:  # every channel is dead
            return dict.fromkeys(self.spoilt, 0.0)
        clean = self.clean[:, chosen]
        deviation = clean.std(0) + np.finfo(np.float64).tiny
        white = whitening(shrink_covariance((clean - clean.mean(0)) / deviation).covariance)
        lengths = {}
        for name, rows in self.spoilt.items():
            moved = ((rows[:, chosen] - clean).mean(0) / deviation) @ white
            lengths[name] = float(moved @ moved / np.sqrt(2 * count))
        return lengths


def _choose(subject: _Subject, candidates: list[ProbePoint], shifts: _Shifts) -> list[ProbePoint]:
    """The first layers, then one by one whichever most raises the sensitivity to what is told worst."""

    def worst(points: Sequence[ProbePoint]) -> float:
        return min(shifts.sensitivity(points).values())

    chosen, most = candidates[:_FIRST], _MOST_COST * sum(subject.macs.values())
    while len(chosen) < _MOST_LAYERS:
        rest = [p for p in candidates if p not in chosen and subject.cost([*chosen, p]) <= most]
        best = max(rest, key=lambda point: worst([*chosen, point]), default=None)
        if best is None or worst([*chosen, best]) < _LEAST_GAIN * worst(chosen):
            break
        chosen = [*chosen, best]
    return [point for point in candidates if point in chosen]


def _measure_shifts(
    subject: _Subject, candidates: list[ProbePoint], model: onnx.ModelProto, inputs: Sequence[ProofInput], path: Path
) -> _Shifts:
    """Run all candidates at once, in a graph that the chosen one overwrites."""
    write_probe_graph(model, candidates, path)
    session = _open(path)
    law = join_laws([subject.laws[point.site.name] for point in candidates])
    names = np.concatenate([np.repeat(p.site.name, len(subject.laws[p.site.name].mean)) for p in candidates])

    def features(parts: list[Pixels]) -> Array:
        return np.stack([picture_features(*_run(session, network_tensor(part)), law) for part in parts])

    parts = [part for item in inputs if item.kind != "noise" for part in _cut(item)]
    spoilt = {name: features([spoil(part) for part in parts]) for name, spoil in CORRUPTIONS.items()}
    return _Shifts(features(parts), spoilt, names[feature_channels(law)])


def _cut(item: ProofInput) -> list[Pixels]:
    """Overlapping parts of half the picture's sides, which are multiples of 32 and at least 32."""
    content = crop_content(item.image[0].numpy(), item.plan)
    height, width = (max(side // 2 // MULTIPLE * MULTIPLE, MULTIPLE) for side in content.shape[:2])
    tops = np.linspace(0, content.shape[0] - height, _CUTS).astype(int)
    lefts = np.linspace(0, content.shape[1] - width, _CUTS).astype(int)
    return [content[top : top + height, left : left + width] for top in tops for left in lefts]


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, picture: NDArray[np.float32]) -> tuple[Array, Array]:
    mean, variance = session.run([MEAN, VARIANCE], {PICTURE: picture})
    return mean.astype(np.float64), variance.astype(np.float64)


def _compare_with_torch(
    subject: _Subject, chosen: Sequence[ProbePoint], reference: nn.Module, inputs: Sequence[ProofInput], path: Path
) -> tuple[float, float]:
    """Largest errors of living channels' z and ln v against the unfolded network's BatchNorm outputs."""
    session, network = _open(path), copy.deepcopy(reference).eval()
    law = join_laws([subject.laws[point.site.name] for point in chosen])
    alive = law.alive
    living = Law(law.mean[alive], law.variance[alive])
    errors = [(0.0, 0.0)]
    for item in inputs:
        picture = network_tensor(crop_content(item.image[0].numpy(), item.plan))
        found, expected = (
            (mean[alive], variance[alive])
            for mean, variance in (_run(session, picture), _torch_statistics(network, chosen, picture))
        )
        z, spread = shift(found[0], living), log_variance_ratio(found[1], living)
        apart = np.abs(z - shift(expected[0], living)), np.abs(spread - log_variance_ratio(expected[1], living))
        errors += [(float(a), float(b)) for a, b in zip(*apart, strict=True)]
    return max(a for a, _ in errors), max(b for _, b in errors)


def _torch_statistics(
    network: nn.Module, points: Sequence[ProbePoint], picture: NDArray[np.float32]
) -> tuple[Array, Array]:
    """Mean and variance (channels,) of the BatchNorms' outputs, reduced in float64."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        return lambda _, __, output: outputs.update({name: output[0].double().flatten(1)})

    names = [point.site.name for point in points]
    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.inference_mode():
            network(torch.from_numpy(picture))
    finally:
        for handle in handles:
            handle.remove()
    means = torch.cat([outputs[name].mean(1) for name in names])
    variances = torch.cat([outputs[name].var(1, correction=0) for name in names])
    return means.numpy(), variances.numpy()


def _probed(subject: _Subject, point: ProbePoint, number: int) -> ProbedLayer:
    layer = subject.layers[point.site.name]
    return ProbedLayer(
        name=layer.name,
        conv=str(point.site.conv),
        stage=layer.stage,
        channels=layer.channels,
        why="first" if number < _FIRST else "sensitive",
    )
