"""ONNX files: the deployed graph with BatchNorm folded, and the reference graph that really keeps it."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from service.bundle.manifest import GraphSpec, RectSpec
from service.errors import ExportFailed
from service.prepare.deployed_network import MAX_DET, DeployedNetwork, match_rows
from service.prepare.proof_inputs import ProofInput

OPSET = 17
INPUT, OUTPUT = "images", "detections"
#: Batch traced with: anything but 1, so that a batch of one is not baked in as a constant.
_TRACE_BATCH = 2


def export_onnx(
    network: DeployedNetwork, path: Path, imgsz: int, batch_normalization_nodes: int, rect: RectSpec | None = None
) -> GraphSpec:
    """Write one graph: uint8 (batch, height, width, 3) BGR in, float32 (batch, 300, 6) out, batch dynamic.

    Args:
        imgsz: height and width, unless ``rect`` leaves them open.
        batch_normalization_nodes: how many BatchNormalization nodes the file must hold, no more and no fewer.
        rect: keep height and width dynamic, too; ``network`` was made for any size.

    Raises:
        ExportFailed: the exporter failed, or the file is not what was promised.
    """
    # Not square where it is to be any rectangle: height and width must not be taken for one another.
    height = imgsz if rect is None else rect.shortest
    example = torch.zeros(_TRACE_BATCH, height, imgsz, 3, dtype=torch.uint8)
    sides = {} if rect is None else {1: "height", 2: "width"}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # The tracing exporter is deprecated, but the newer one folds BatchNorm and cannot be told not to.
            warnings.simplefilter("ignore")
            network(example)  # fills the head's anchor cache, which tracing then sees as a constant
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                # PRESERVE keeps eval mode without the exporter's own conv and BatchNorm folding.
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"} | sides, OUTPUT: {0: "batch"}},
            )
    except Exception as error:  # the exporter raises many kinds, none of which mean more than this
        # The rest of such a message can be hundreds of lines of intermediate code.
        reason = str(error).strip().partition("\n")[0]
        raise ExportFailed(f"Exporting {path.name} failed: {type(error).__name__}: {reason}") from error
    return inspect_graph(path, batch_normalization_nodes)


def inspect_graph(path: Path, batch_normalization_nodes: int) -> GraphSpec:
    """Validate an ONNX file and count what is in it.

    Raises:
        ExportFailed: it does not validate, or its number of BatchNormalization nodes is not the one given.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf and checker errors alike
        raise ExportFailed(f"{path.name} is not a valid ONNX file: {error}") from error
    kinds = Counter(node.op_type for node in model.graph.node)
    found = kinds["BatchNormalization"]
    if found != batch_normalization_nodes:
        raise ExportFailed(f"{path.name} holds {found} BatchNormalization nodes, not {batch_normalization_nodes}.")
    return GraphSpec(
        file=path.name,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        nodes=len(model.graph.node),
        batch_normalization_nodes=found,
        bytes=path.stat().st_size,
    )


def check_graph_outputs(path: Path, network: DeployedNetwork, inputs: Sequence[ProofInput]) -> None:
    """Run an ONNX file on the proof inputs, one by one and in batches, against the torch network it came from.

    Raises:
        ExportFailed: wrong shape, or detections that differ from torch's.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for size in dict.fromkeys(item.image.shape for item in inputs):
        _check_size(session, path, network, [item for item in inputs if item.image.shape == size])


def _check_size(
    session: ort.InferenceSession, path: Path, network: DeployedNetwork, inputs: Sequence[ProofInput]
) -> None:
    batched = session.run([OUTPUT], {INPUT: np.concatenate([item.image.numpy() for item in inputs])})[0]
    if batched.shape != (len(inputs), MAX_DET, 6):
        raise ExportFailed(f"{path.name} returns {batched.shape}, not {(len(inputs), MAX_DET, 6)}.")
    for item, together in zip(inputs, batched, strict=True):
        alone = session.run([OUTPUT], {INPUT: item.image.numpy()})[0][0]
        with torch.inference_mode():
            expected = network.candidates(item.image)
        for how, rows in (("alone", alone), ("in a batch", together)):
            match = match_rows(network, expected, rows)
            if not match.complete:
                raise ExportFailed(
                    f"{path.name}, run {how} on {item.name}, repeats {match.matched} of torch's {match.expected} "
                    f"detections and adds {match.extra}."
                )
