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
    model = onnx.load(graph)
    (bias,) = (i for i in model.graph.initializer if i.name == f"network.{conv}.conv.bias")
    changed = change(numpy_helper.to_array(bias).copy())
    bias.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), bias.name))
    onnx.save(model, graph)
