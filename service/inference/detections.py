"""The network's rows to detections in the picture's own pixels."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.preprocessing.letterbox import Letterbox, unletterbox_xyxy


@dataclass(frozen=True)
class Detections:
    """Boxes found in one picture, by falling confidence.

    Attributes:
        xyxy: (N, 4) float32 corners x1, y1, x2, y2 in pixels of the upright picture, clipped to it.
        confidence: (N,) float32, 0 to 1.
        class_id: (N,) int64, positions in the manifest's class list.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.confidence)


def select_detections(
    rows: NDArray[np.float32],
    plan: Letterbox,
    *,
    conf: float,
    max_det: int,
    classes: Collection[int] | None = None,
) -> Detections:
    """Keep the rows that were asked for, except boxes turned inside out, and map them back to the picture.

    Args:
        rows: (R, 6) float32: x1, y1, x2, y2 in pixels of the input, confidence, class id.
        plan: how the picture lies in the input.
        conf: only rows strictly above this confidence are kept, as Ultralytics does.
        max_det: most detections returned, the most confident first.
        classes: class ids to keep; None keeps all, an empty collection none.
    """
    # Distances to the sides are unbounded regressions: at next to no confidence some come out negative.
    keep = (rows[:, 4] > conf) & (rows[:, 0] <= rows[:, 2]) & (rows[:, 1] <= rows[:, 3])
    if classes is not None:
        keep &= np.isin(rows[:, 5], list(classes))
    kept = rows[keep]
    # Stable, so equal confidences keep the network's order.
    kept = kept[np.argsort(-kept[:, 4], kind="stable")[:max_det]]
    return Detections(unletterbox_xyxy(kept[:, :4], plan), kept[:, 4].copy(), kept[:, 5].astype(np.int64))
