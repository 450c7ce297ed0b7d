"""What YOLOFOLD_REDUCED_DECODE changes: boxes, processor time and memory, against decoding in full.

    .venv/bin/python -m scripts.reduced_decode --bundle bundles/NAME --data samples

Each picture of the folder is enlarged to several sizes, written as JPEG (quality 90, colour halved) and looked at both
ways, in turn. Enlarging makes no fine structure, which is what the two ways treat differently; so every second row has
grain, as from a sensor, of 8 grey levels. A box of full decoding counts as repeated when one of its class lies over it
to an IoU of 0.95 with a confidence within 0.02. Time is the processor's, of decoding and letterboxing; memory is what
that adds to a process of its own at most.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle, load_bundle
from service.comparison import pair_rows, pairwise_iou
from service.heap import map_large_blocks
from service.inference.detections import Detections
from service.inference.detector import Detector, Selection
from service.inference.headers import ImageHeader
from service.inference.images import decode_pixels, inspect_image
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.picture_folder import picture_files
from service.inference.reduced_decode import NOT_REDUCED, choose_reduction
from service.machine import resident_peak_bytes
from service.preprocessing.letterbox import letterbox, plan_letterbox

MEGAPIXELS = (3.0, 12.0, 24.0)
GRAIN = 8.0
IOU, CONFIDENCE = 0.95, 0.02
_MAX_PIXELS = 10**9
_MULTIPLE = 8  # of the sides, as cameras' are
_QUALITY = 90
_FULL, _REDUCED = "full", "reduced"


@dataclass
class Effect:
    """What was found at one size.

    Attributes:
        boxes: of full decoding, above the default confidence.
        repeated: of these, within ``IOU`` and ``CONFIDENCE``.
        lost, new: boxes above the default confidence in full decoding alone, or reduced alone.
        worst_iou, worst_confidence: over the boxes of full decoding that have a partner above half of it.
        cpu_ms: of each way, a figure per picture and round.
        peak_bytes: of each way, a figure per picture.
    """

    reductions: set[int] = field(default_factory=set)
    boxes: int = 0
    repeated: int = 0
    lost: int = 0
    new: int = 0
    worst_iou: float = 1.0
    worst_confidence: float = 0.0
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {_FULL: [], _REDUCED: []})
    peak_bytes: dict[str, list[int]] = field(default_factory=lambda: {_FULL: [], _REDUCED: []})


def enlarge(picture: NDArray[np.uint8], megapixels: float, grain: float) -> bytes:
    """A JPEG of about so many megapixels, its sides multiples of 8, with Gaussian grain of so many grey levels."""
    height, width = picture.shape[:2]
    scale = float(np.sqrt(megapixels * 1e6 / (height * width)))
    sides = [round(side * scale / _MULTIPLE) * _MULTIPLE for side in (width, height)]
    large = cv2.resize(picture, sides, interpolation=cv2.INTER_CUBIC)
    if grain:
        noise = np.random.default_rng(0).normal(0, grain, large.shape[:2]).astype(np.float32)
        large = np.clip(large + noise[..., None], 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def compare(expected: Detections, found: Detections, threshold: float, effect: Effect) -> None:
    """Add one picture's boxes to the figures; both hold those somewhat below the threshold too, as partners."""
    first, second = _rows(expected), _rows(found)
    pairing = pair_rows(first, second)
    confident = first[pairing.expected, 4] > threshold
    mine, partner = first[pairing.expected][confident], second[pairing.found][confident]
    overlaps = np.array([pairwise_iou(a[None, :4], b[None, :4])[0, 0] for a, b in zip(mine, partner, strict=True)])
    apart = np.abs(mine[:, 4] - partner[:, 4])
    effect.boxes += int((first[:, 4] > threshold).sum())
    effect.repeated += int(((overlaps >= IOU) & (apart <= CONFIDENCE)).sum())
    both = int((confident & (second[pairing.found, 4] > threshold)).sum())
    effect.lost += int((first[:, 4] > threshold).sum()) - both
    effect.new += int((second[:, 4] > threshold).sum()) - both
    if len(mine):
        effect.worst_iou = min(effect.worst_iou, float(overlaps.min()))
        effect.worst_confidence = max(effect.worst_confidence, float(apart.max()))


def measure(bundle: Bundle, pictures: Sequence[Path], megapixels: float, grain: float, rounds: int) -> Effect:
    """Look at every picture at one size, both ways."""
    model = bundle.manifest.model
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1)
    ways = {way: Detector(bundle, engine, _MAX_PIXELS, reduced=way == _REDUCED) for way in (_FULL, _REDUCED)}
    wanted = Selection(model.default_confidence / 2, model.head.max_det)
    effect = Effect()
    for path in pictures:
        picture = cv2.imread(str(path))
        if picture is None:
            raise SystemExit(f"{path} is no picture")
        data = enlarge(np.asarray(picture, np.uint8), megapixels, grain)
        effect.reductions.add(choose_reduction(inspect_image(data, max_pixels=_MAX_PIXELS), model.input.height))
        found = {way: detector.detect(data, wanted).detections for way, detector in ways.items()}
        compare(found[_FULL], found[_REDUCED], model.default_confidence, effect)
        for _ in range(rounds):
            for way, detector in ways.items():
                began = time.thread_time()
                detector.fit(data)
                effect.cpu_ms[way].append((time.thread_time() - began) * 1e3)
        for way in ways:
            effect.peak_bytes[way].append(_peak_of_own(way, data, model.input.height))
    return effect


def decode_once(way: str, data: bytes, size: int) -> None:
    """Decode and letterbox as the service does, without a network."""
    header: ImageHeader = inspect_image(data, max_pixels=_MAX_PIXELS)
    reduction = choose_reduction(header, size) if way == _REDUCED else NOT_REDUCED
    image = decode_pixels(data, header, reduction)
    letterbox(image, plan_letterbox(image.shape[1] * reduction, image.shape[0] * reduction, size))


def _peak_of_own(way: str, data: bytes, size: int) -> int:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        command = [sys.executable, "-m", "scripts.reduced_decode", "--peak", way, file.name, str(size)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _report_peak(way: str, path: str, size: str) -> None:
    data = Path(path).read_bytes()
    decode_once(way, enlarge(np.zeros((64, 64, 3), np.uint8), 0.01, 0), int(size))  # the libraries' own first needs
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    decode_once(way, data, int(size))
    print((resident_peak_bytes() or 0) - resident_pages * resource.getpagesize())


def _rows(found: Detections) -> NDArray[np.float64]:
    return np.column_stack([found.xyxy, found.confidence, found.class_id]).astype(np.float64)


def main() -> None:
    """Print a row per size."""
    map_large_blocks()  # as the service does, also in the processes whose peak is told
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--data", type=Path, help="folder of pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=3, metavar=("WAY", "FILE", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        _report_peak(*arguments.peak)
        return
    if not (arguments.bundle and arguments.data):
        parser.error("--bundle and --data are needed")
    cv2.setNumThreads(1)
    bundle = load_bundle(arguments.bundle)
    pictures = picture_files(arguments.data)
    columns = ("megapixels", "grain", "sides over", "boxes repeated", "lost, new", "worst IoU", "worst confidence")
    print("|", " | ".join((*columns, "CPU", "peak")), "|")
    print("|" + "---|" * (len(columns) + 2))
    for megapixels in MEGAPIXELS:
        for grain in (0.0, GRAIN):
            found = measure(bundle, pictures, megapixels, grain, arguments.rounds)
            ms = {way: float(np.median(figures)) for way, figures in found.cpu_ms.items()}
            mb = {way: float(np.median(figures)) / 1e6 for way, figures in found.peak_bytes.items()}
            print(
                f"| {megapixels:g} | {grain:g} | {', '.join(map(str, sorted(found.reductions)))} "
                f"| {found.repeated} of {found.boxes} | {found.lost}, {found.new} | {found.worst_iou:.3f} "
                f"| {found.worst_confidence:.3f} | {ms[_FULL]:.0f} to {ms[_REDUCED]:.0f} ms "
                f"({ms[_FULL] / ms[_REDUCED]:.1f}) | {mb[_FULL]:.0f} to {mb[_REDUCED]:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
