"""Bundles spoilt on purpose, with hashes that fit, so that only the change itself can be at fault."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from service.bundle import store
from service.bundle.manifest import FileRecord


def rewrite(folder: Path, file: str, change: Callable[[dict], None]) -> None:
    """Change a JSON file and record its new hash."""
    document = json.loads((folder / file).read_text())
    change(document)
    (folder / file).write_text(json.dumps(document))
    if file != store.MANIFEST:
        rehash(folder, file)


def rehash(folder: Path, file: str) -> None:
    """Record a file's present hash in the manifest."""
    record = FileRecord(sha256=store.sha256_file(folder / file), bytes=(folder / file).stat().st_size)
    rewrite(folder, store.MANIFEST, lambda m: m["files"].update({file: record.model_dump()}))


def change_bias(graph: Path, conv: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the bias (channels,) float32 of one folded convolution in an ONNX file."""
    change_constant(graph, f"network.{conv}.conv.bias", change)


def change_constant(graph: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a float32 constant of an ONNX file."""
    model = onnx.load(graph)
    (constant,) = (i for i in model.graph.initializer if i.name == name)
    changed = change(numpy_helper.to_array(constant).copy())
    constant.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), constant.name))
    onnx.save(model, graph)


def fold_anew(reference: Path, deployed: Path, layer: str, eps: float = 1e-3) -> None:
    """Let a convolution of the deployed graph hold the fold of what the reference holds now."""
    stored = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in onnx.load(reference).graph.initializer}
    names = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (stored[f"network.{layer}.bn.{name}"] for name in names)
    scale = gamma / np.sqrt(variance + eps)
    weight = stored[f"network.{layer}.conv.weight"] * scale[:, None, None, None]
    change_constant(deployed, f"network.{layer}.conv.weight", lambda _: weight)
    change_bias(deployed, layer, lambda _: beta - mean * scale)


def change_both_graphs(folder: Path, layer: str, factor: float) -> None:
    """Change one layer's variances in the reference of a bundle, and the deployed graph as if it were the fold of that:
    the two graphs fit each other, and hashes fit both."""
    reference, deployed = folder / store.REFERENCE, folder / store.DEPLOYED
    change_constant(reference, f"network.{layer}.bn.running_var", lambda variance: variance * factor)
    fold_anew(reference, deployed, layer)
    for file in (store.REFERENCE, store.DEPLOYED):
        rehash(folder, file)
