"""Decoding at a fraction of the size: when, that the geometry is exact, what it costs, and that boxes stay."""

import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from service.bundle.store import Bundle
from service.comparison import pair_rows, pairwise_iou
from service.errors import BrokenImage
from service.inference.detector import Detector, Selection
from service.inference.headers import ImageHeader, read_header
from service.inference.images import decode_pixels, decoding_bytes
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.reduced_decode import choose_reduction
from tests.conftest import IMGSZ, ROOT
from tests.inference.pictures import encode, scene

WIDE = Image.fromarray(scene(1600, 1200))
#: From here on the network is sure of a box: what it is not sure of, another resampling moves by more.
CONFIDENT = 0.5


@pytest.fixture(scope="module")
def full(bundle: Bundle) -> Detector:
    return Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 10**8)


@pytest.fixture(scope="module")
def reduced(bundle: Bundle) -> Detector:
    return Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 10**8, reduced=True)


def enlarged(path: Path, width: int, orientation: int | None = None) -> bytes:
    """A sample as a JPEG of that width, its height in proportion and a multiple of 8."""
    with Image.open(path) as picture:
        height = round(picture.height * width / picture.width / 8) * 8
        large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    if orientation == 6:  # to be turned clockwise to be seen
        large = large.transpose(Image.Transpose.ROTATE_90)
    return encode(large, "JPEG", orientation, quality=90)


# --- which pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 480, 1),
        (1279, 960, 1),
        (1280, 960, 2),
        (960, 1280, 2),
        (1278, 960, 1),  # half of it is one pixel less than the input
        (1920, 1080, 2),
        (2560, 1920, 4),
        (2559, 1920, 1),
        (4000, 3000, 4),
        (4002, 3000, 2),
        (4000, 3002, 2),
        (5120, 3840, 8),
        (8000, 6000, 8),
        (8004, 6000, 4),
        (8000, 8, 8),
        (8000, 4, 4),
    ],
)
def test_the_reduced_picture_is_no_smaller_than_the_input_and_exactly_to_scale(
    width: int, height: int, expected: int
) -> None:
    assert choose_reduction(ImageHeader("JPEG", width, height), 640) == expected
    assert choose_reduction(ImageHeader("JPEG", width, height, orientation=6), 640) == expected
    assert choose_reduction(ImageHeader("PNG", width, height), 640) == 1


SMALL_OR_OTHER = {
    "small": encode(Image.fromarray(scene(1000, 700)), "JPEG"),
    "odd": encode(Image.fromarray(scene(1501, 1201)), "JPEG"),
    "turned": encode(Image.fromarray(scene(700, 1000)), "JPEG", 8),
    "png": encode(WIDE, "PNG"),
    "webp": encode(WIDE, "WEBP"),
}


@pytest.mark.parametrize("name", SMALL_OR_OTHER)
def test_other_pictures_are_decoded_as_before(full: Detector, reduced: Detector, name: str) -> None:
    expected, found = full.fit(SMALL_OR_OTHER[name]), reduced.fit(SMALL_OR_OTHER[name])
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


# --- pixels ------------------------------------------------------------------------------------------------

KINDS = {
    "420": (WIDE, {}),
    "444": (WIDE, {"subsampling": 0}),
    "progressive": (WIDE, {"progressive": True}),
    "grey": (WIDE.convert("L"), {}),
    "cmyk": (WIDE.convert("CMYK"), {}),
}


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_reduced_pixels_are_means_of_the_full_ones(kind: str, reduction: int) -> None:
    picture, options = KINDS[kind]
    data = encode(picture, "JPEG", quality=95, **options)
    header = read_header(data)
    found = decode_pixels(data, header, reduction)
    size = (1600 // reduction, 1200 // reduction)
    expected = cv2.resize(decode_pixels(data, header), size, interpolation=cv2.INTER_AREA)
    assert found.shape == expected.shape
    # The scene is smooth: the two low-pass filters differ by less than its slope over one pixel.
    assert np.abs(found.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_the_reduced_picture(full: Detector, reduced: Detector, orientation: int) -> None:
    data = encode(WIDE, "JPEG", orientation, quality=95)
    (plan, expected), (reduced_plan, found) = full.fit(data), reduced.fit(data)
    assert reduced_plan == plan
    assert plan.source_wh == ((1200, 1600) if orientation >= 5 else (1600, 1200))
    # A mirrored or turned scene would differ by dozens of grey levels.
    assert np.abs(found.astype(int) - expected).mean() < 1
    assert np.abs(found.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_files_are_refused(reduced: Detector, kind: str) -> None:
    picture, options = KINDS[kind]
    data = encode(picture, "JPEG", **options)
    rng = random.Random(1)
    for _ in range(20):
        with pytest.raises(BrokenImage):
            reduced.fit(data[: rng.randrange(200, len(data))])


# --- boxes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "reduction"), [(1600, 2), (4000, 4), (5120, 8)])
def test_boxes_stay(full: Detector, reduced: Detector, samples: list[Path], width: int, reduction: int) -> None:
    """Every confident box has its like, to an IoU of 0.9 and 0.15 in confidence; scripts/reduced_decode.py has figures.

    Every second picture is stored turned.
    """
    compared = 0
    for number, path in enumerate(samples):
        data = enlarged(path, width, 6 if number % 2 else None)
        assert choose_reduction(read_header(data), IMGSZ) == reduction
        selection = Selection(CONFIDENT / 4, 300)
        rows = []
        for detector in (full, reduced):
            result = detector.detect(data, selection)
            assert result.width == width
            found = result.detections
            rows.append(np.column_stack([found.xyxy, found.confidence, found.class_id]).astype(float))
        pairing = pair_rows(*rows)
        confident = np.flatnonzero(rows[0][:, 4] > CONFIDENT)
        assert set(confident) <= set(pairing.expected)
        for mine, other in zip(pairing.expected, pairing.found, strict=True):
            if mine in confident:
                assert pairwise_iou(rows[0][[mine], :4], rows[1][[other], :4])[0, 0] >= 0.9
                assert abs(rows[0][mine, 4] - rows[1][other, 4]) <= 0.15
                compared += 1
    assert compared >= len(samples)


def test_what_is_drawn_is_what_is_answered(reduced: Detector, samples: list[Path]) -> None:
    data = enlarged(samples[1], 1600)
    drawn, found = reduced.annotate(data, Selection(0.05, 300), "jpeg"), reduced.detect(data, Selection(0.05, 300))
    np.testing.assert_array_equal(drawn.result.detections.xyxy, found.detections.xyxy)
    np.testing.assert_array_equal(drawn.result.detections.confidence, found.detections.confidence)
    header = read_header(drawn.file)
    assert (header.width, header.height) == (found.width, found.height) == (1600, read_header(data).height)


# --- memory ------------------------------------------------------------------------------------------------

_MEASURED = """
import sys
import cv2, numpy as np
from pathlib import Path
from service.inference.headers import read_header
from service.inference.images import decode_pixels, decoding_bytes

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

cv2.imdecode(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1], cv2.IMREAD_REDUCED_COLOR_2)
data = Path(sys.argv[1]).read_bytes()
before = memory("VmRSS:")
image = decode_pixels(data, read_header(data), int(sys.argv[2]))
print(memory("VmHWM:") - before)
"""


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_reduced_picture_takes_no_more_memory_than_announced(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "large.jpg"
    tile = Image.fromarray(scene(400, 300)).resize((4000, 3000))
    path.write_bytes(encode(tile, "JPEG", progressive=progressive, subsampling=0))
    announced = decoding_bytes(read_header(path.read_bytes()), 4)
    command = [sys.executable, "-c", _MEASURED, str(path), "4"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    # A sixteenth of the pixels, and a progressive file's coefficients, which no scaling spares.
    assert announced == 12_000_000 * 3 // 16 + (12_000_000 * 3 * 2 if progressive else 0)
    # What the allocator and the codec keep for themselves.
    assert int(ran.stdout) <= announced + 12_000_000
    assert decoding_bytes(read_header(path.read_bytes())) > announced
