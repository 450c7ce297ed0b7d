"""Takes the examples of the API's description from a running server, anew: needed when the shape of an answer changes.

    .venv/bin/python -m scripts.api_examples --bundle bundles/NAME [--only fold.json model.json]

NAME is a bundle that `prepare` made of the embedded weights. What the examples show is brought about in a copy of it:
it is calibrated on parts of `samples/`; ordinary and then dark pictures are detected in; a measurement of the latency
is cancelled and another waited for; and it is compared with another bundle, --other or one that is recalibrated for
this. All of it takes some minutes. The files in `service/api/examples` are replaced.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from service.api.examples import BLOCKS_SHOWN, FOLDER, LAYERS_SHOWN
from service.drift.baseline import WINDOW
from service.drift.calibration import LEAST_PICTURES
from service.preprocessing.corruptions import darken
from service.preprocessing.letterbox import letterbox, picture_tensor, plan_letterbox

ROOT = Path(__file__).parent.parent
PARCEL, SHELF = ROOT / "samples" / "parcel.jpg", ROOT / "samples" / "shelf.jpg"
#: Pictures in the tensors, and the side of the embedded weights' input.
TENSORS, SIDE = 8, 640
_BYTES, _CSV = {"content-type": "application/octet-stream"}, {"accept": "text/csv"}
LAYER = {"layer": "model.0.bn"}
#: Shown of ``/metrics``.
FAMILIES = ("yolofold_requests_total", "yolofold_detections_total", "yolofold_queue_waiting", "yolofold_ready")

#: Examples that need a calibration.
CALIBRATED = {"drift.json", "drift_image.json", "lint.json"}
COMPARED = "bn_diff.json"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stage:
    """What the examples are taken from: a client of the server, and the name of the bundle that it can be compared
    with."""

    client: httpx.Client
    other: str


def main() -> None:
    """Take what is asked for and replace the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="of the embedded weights")
    parser.add_argument("--other", type=Path, help="a bundle to compare it with")
    parser.add_argument("--only", nargs="+", choices=TAKERS, default=list(TAKERS), metavar="FILE", help="what to take")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yolofold-examples-") as folder:
        root = Path(folder) / "bundles"
        shutil.copytree(asked.bundle, root / asked.bundle.name)
        data = _write_pictures(Path(folder) / "data")
        if CALIBRATED.intersection(asked.only):
            _command(root, "calibrate", "--data", str(data))
        other = _other_bundle(root, data, asked.other) if COMPARED in asked.only else ""
        with _serving(root) as client:
            for name in asked.only:
                text = TAKERS[name](Stage(client, other))
                (FOLDER / name).write_text(text, encoding="utf-8")
                print(f"{name}: {len(text.encode())} bytes")


def _other_bundle(root: Path, data: Path, given: Path | None) -> str:
    """Its name in ``root``, where it does not replace the served one."""
    if given is not None:
        # Without a hyphen, which every name that serving looks for has.
        return shutil.copytree(given, root / given.name.replace("-", "_")).name
    _command(root, "recalibrate", "--data", str(data), "--prior", "32")
    (name,) = (path.name for path in root.iterdir() if "_recalibrated_" in path.name)
    return name


def _take_drift(stage: Stage) -> str:
    for number, picture in enumerate(_cut_pictures(2 * WINDOW, seed=1)):
        _feed(stage.client, picture if number < WINDOW else darken(picture))
    return _json(stage.client.get("/model/drift"))


def _feed(client: httpx.Client, picture: Pixels) -> None:
    """Detect in a picture until it has been sampled as well."""
    before = _sampled(client)
    while _sampled(client) == before:
        client.post("/detect", content=_png(picture), headers={"content-type": "image/png"}).raise_for_status()
        until = time.monotonic() + 5
        while _sampled(client) == before and time.monotonic() < until:
            time.sleep(0.02)


def _sampled(client: httpx.Client) -> int:
    sampled: int = client.get("/model/drift").raise_for_status().json()["sampled"]
    return sampled


def _start_measurement(stage: Stage) -> httpx.Response:
    _wait_for_measurement(stage.client)
    return stage.client.post("/model/latency", params={"rounds": 12})


def _take_started(stage: Stage) -> str:
    text = _json(_start_measurement(stage))
    stage.client.delete("/model/latency")
    return text


def _take_cancelled(stage: Stage) -> str:
    _start_measurement(stage).raise_for_status()
    return _json(stage.client.delete("/model/latency"))


def _take_measured(stage: Stage) -> str:
    _start_measurement(stage).raise_for_status()
    _wait_for_measurement(stage.client)
    return _json(stage.client.get("/model/latency"))


def _wait_for_measurement(client: httpx.Client) -> None:
    """Wait until none runs."""
    while True:
        measured = client.get("/model/latency").raise_for_status().json()["measured"]
        if measured is None or measured["state"] != "running":
            return
        time.sleep(0.5)


def _post_parcel(stage: Stage, path: str, **params: int) -> httpx.Response:
    return stage.client.post(path, params=params, content=PARCEL.read_bytes(), headers={"content-type": "image/jpeg"})


def _batch() -> list[tuple[str, tuple[str, bytes]]]:
    shelf = SHELF.read_bytes()
    return [("file", ("parcel.jpg", PARCEL.read_bytes())), ("file", ("half.jpg", shelf[: len(shelf) // 2]))]


def _swapped_tensors() -> bytes:
    """A .npy file of pictures as (N, 3, S, S) float16 from 0 to 255, BGR where the network takes RGB."""
    tensors = []
    for picture in _cut_pictures(TENSORS, seed=2):
        square = letterbox(picture, plan_letterbox(picture.shape[1], picture.shape[0], SIDE))
        tensors.append(picture_tensor(square)[::-1] * 255)
    stream = io.BytesIO()
    np.save(stream, np.stack(tensors).astype(np.float16))
    return stream.getvalue()


def _text(response: httpx.Response) -> str:
    return response.raise_for_status().text.replace("\r\n", "\n")


def _json(response: httpx.Response, **shown: int) -> str:
    """The answer as indented JSON, of the lists named in ``shown`` so many entries only."""
    answer: dict[str, Any] = response.raise_for_status().json()
    answer |= {name: answer[name][:count] for name, count in shown.items()}
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    # Lists of numbers on one line.
    text = re.sub(
        r"\[[\d\s.,eE+-]+\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    return text + "\n"


def _some_families(metrics: str) -> str:
    kept = re.compile(rf"(# (HELP|TYPE) )?({'|'.join(FAMILIES)})\b")
    return "".join(line for line in metrics.splitlines(keepends=True) if kept.match(line))


def _write_pictures(folder: Path) -> Path:
    folder.mkdir()
    for number, picture in enumerate(_cut_pictures(LEAST_PICTURES, seed=0)):
        (folder / f"{number:03}.png").write_bytes(_png(picture))
    return folder


def _cut_pictures(count: int, seed: int, side: int = 320) -> list[Pixels]:
    """Different parts of the samples, (H, W, 3) BGR, the longer side of each so many pixels."""
    rng = np.random.default_rng(seed)
    sources = [cv2.imread(str(path)) for path in sorted((ROOT / "samples").glob("*.jpg"))]
    found = []
    for number in range(count):
        source, share = sources[number % len(sources)], rng.uniform(0.4, 0.9)
        assert source is not None
        height, width = (int(length * share) for length in source.shape[:2])
        top, left = (int(rng.integers(0, length)) for length in (source.shape[0] - height, source.shape[1] - width))
        part = source[top : top + height, left : left + width]
        scale = side / max(height, width)
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found.append(np.clip(part * rng.uniform(0.85, 1.1), 0, 255).astype(np.uint8))
    return found


def _png(picture: Pixels) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def _environ(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("YOLOFOLD_")}
    settings = {"WEIGHTS": "embedded", "BUNDLE_DIR": str(root), "PORT": "0", "DRIFT_CPU": "1"}
    return kept | {f"YOLOFOLD_{name}": value for name, value in settings.items()}


def _command(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "service", *arguments], cwd=ROOT, env=_environ(root), check=True)


@contextmanager
def _serving(root: Path) -> Iterator[httpx.Client]:
    """A client of a server on a free port."""
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(command, cwd=ROOT, env=_environ(root), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
        with httpx.Client(base_url=address.rstrip("/"), timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


#: How each is taken, by the file's name; in this order, by which ordinary pictures are the first that are sampled.
TAKERS: dict[str, Callable[[Stage], str]] = {
    "drift.json": _take_drift,
    "drift_image.json": lambda stage: _json(_post_parcel(stage, "/model/drift/image", channels=3)),
    "lint.json": lambda stage: _json(stage.client.post("/model/lint", content=_swapped_tensors(), headers=_BYTES)),
    "detect.json": lambda stage: _json(_post_parcel(stage, "/detect")),
    "detect_batch.json": lambda stage: _json(stage.client.post("/detect/batch", files=_batch())),
    "model.json": lambda stage: _json(stage.client.get("/model")),
    "model_layers.json": lambda stage: _json(stage.client.get("/model/layers"), blocks=BLOCKS_SHOWN),
    "bn_stats.json": lambda stage: _json(stage.client.get("/model/bn-stats", params=LAYER | {"detail": "full"})),
    "bn_stats.csv": lambda stage: _text(stage.client.get("/model/bn-stats", params=LAYER, headers=_CSV)),
    COMPARED: lambda stage: _json(
        stage.client.get("/model/bn-diff", params={"other": stage.other}), layers=LAYERS_SHOWN
    ),
    "fold.json": lambda stage: _json(stage.client.get("/model/fold", params=LAYER)),
    "fold_check.json": lambda stage: _json(_post_parcel(stage, "/model/fold/check")),
    "latency_started.json": _take_started,
    "latency_cancelled.json": _take_cancelled,
    "latency.json": _take_measured,
    "metrics.txt": lambda stage: _some_families(_text(stage.client.get("/metrics"))),
    "healthz.json": lambda stage: _json(stage.client.get("/healthz")),
    "readyz.json": lambda stage: _json(stage.client.get("/readyz")),
}


if __name__ == "__main__":
    main()
