"""The network as it is deployed: uint8 BGR pictures in, (batch, 300, 6) detections out."""

import copy
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from service.bundle.manifest import HeadKind, HeadSpec
from service.prepare.checkpoint import blocks
from service.prepare.detection_match import DetectionMatch, match_detections, match_suppressed

MAX_DET = 300
NMS_IOU = 0.7
#: One-to-many heads answer everywhere; below this a box is noise, and suppressing noise costs time.
NMS_MIN_CONFIDENCE = 0.001
# Moves the boxes of each class apart so that one suppression pass never compares two classes.
CLASS_OFFSET_PX = 7680.0


def head_spec(head: HeadKind) -> HeadSpec:
    """What the manifest says about the head."""
    if head == "one2one":
        return HeadSpec(kind=head, nms="none", max_det=MAX_DET, iou=None, min_confidence=0.0)
    return HeadSpec(kind=head, nms="graph", max_det=MAX_DET, iou=NMS_IOU, min_confidence=NMS_MIN_CONFIDENCE)


class DeployedNetwork(nn.Module):
    """Wraps a network with one head: scaling and channel order before it, suppression (if its head needs it) after.

    ``forward`` takes uint8 (B, H, W, 3) BGR and returns float32 (B, 300, 6): x1, y1, x2, y2 in pixels of the input,
    confidence, class id; rows by falling confidence, unused rows zero.
    """

    def __init__(self, network: nn.Module, head: HeadKind, *, any_size: bool = False) -> None:
        """
        Args:
            any_size: when traced, keep the size of the picture open; otherwise it is part of the graph.
        """
        super().__init__()
        self.network = copy.deepcopy(network)
        self.head = head
        detect = blocks(self.network)[-1]
        detect.export, detect.format, detect.dynamic = True, "onnx", any_size
        detect.max_det, detect.agnostic_nms = MAX_DET, False
        detect.xyxy = head == "one2many"  # one2one heads give corners by themselves

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Detect in uint8 (B, H, W, 3) BGR pictures."""
        return self.finish(self.candidates(images))

    def finish(self, candidates: torch.Tensor) -> torch.Tensor:
        """(B, anchors, 6) to the final (B, 300, 6)."""
        return candidates if self.head == "one2one" else suppress(candidates)

    def candidates(self, images: torch.Tensor) -> torch.Tensor:
        """What the head proposes: for one2one heads the final (B, 300, 6), else every anchor's best class,
        (B, anchors, 6), before suppression."""
        precision = next(self.network.parameters()).dtype
        return self.proposals(self.network(images.permute(0, 3, 1, 2)[:, [2, 1, 0]].to(precision) / 255.0))

    def proposals(self, predictions: torch.Tensor) -> torch.Tensor:
        """The same of what Ultralytics' head answers."""
        if self.head == "one2many":
            return best_class(predictions)
        missing = MAX_DET - predictions.shape[1]
        return nn.functional.pad(predictions, (0, 0, 0, missing)) if missing > 0 else predictions


def match_rows(network: DeployedNetwork, expected: torch.Tensor, found: NDArray[np.float32]) -> DetectionMatch:
    """Judge final rows (300, 6) by what the reference's head proposed for the same picture, (1, anchors, 6)."""
    rows = expected[0].numpy()
    if network.head == "one2one":
        return match_detections(rows, found)
    return match_suppressed(rows, found, NMS_IOU, CLASS_OFFSET_PX)


def best_class(predictions: torch.Tensor) -> torch.Tensor:
    """(B, 4 + classes, anchors) to rows (B, anchors, 6): each anchor stands for its best class only, as in
    Ultralytics' predict."""
    confidence, class_id = predictions[:, 4:].max(1)
    columns = torch.stack((confidence, class_id.to(confidence.dtype)), -1)
    return torch.cat((predictions[:, :4].transpose(1, 2), columns), -1)


def suppress(rows: torch.Tensor) -> torch.Tensor:
    """Class-wise greedy non-maximum suppression of rows (B, anchors, 6), to (B, 300, 6)."""
    boxes = rows[..., :4] + rows[..., 5:] * CLASS_OFFSET_PX
    selected = _SelectBoxes.apply(boxes, rows[..., 4].unsqueeze(1))
    image, anchor = selected[:, 0], selected[:, 2]
    kept = rows[image, anchor]
    # Kept boxes come grouped by image and sorted within it: their rank is their place after the group's first.
    images = torch.arange(rows.shape[0])
    counts = (image.unsqueeze(0) == images.unsqueeze(1)).long().sum(1)
    rank = torch.arange(image.shape[0]) - (counts.cumsum(0) - counts)[image]
    empty = torch.zeros_like(rows[:, :1]).repeat(1, MAX_DET, 1)
    return empty.index_put((image, rank), kept)


class _SelectBoxes(torch.autograd.Function):
    """ONNX NonMaxSuppression in the exported graph, torchvision's in eager mode: same rule, same order."""

    @staticmethod
    def forward(ctx: Any, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = []
        for image, (image_boxes, image_scores) in enumerate(zip(boxes, scores[:, 0], strict=True)):
            candidates = torch.nonzero(image_scores > NMS_MIN_CONFIDENCE).flatten()
            keep = torchvision.ops.nms(image_boxes[candidates], image_scores[candidates], NMS_IOU)[:MAX_DET]
            anchor = candidates[keep]
            column = torch.full_like(anchor, image)
            found.append(torch.stack((column, torch.zeros_like(column), anchor), 1))
        return torch.cat(found)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any) -> Any:
        return g.op(
            "NonMaxSuppression",
            boxes,
            scores,
            g.op("Constant", value_t=torch.tensor([MAX_DET])),
            g.op("Constant", value_t=torch.tensor([NMS_IOU])),
            g.op("Constant", value_t=torch.tensor([NMS_MIN_CONFIDENCE])),
        )
