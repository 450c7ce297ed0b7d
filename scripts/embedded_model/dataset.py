"""YOLO-layout data sets: one picture and one label file per index, the same bytes for the same seed."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from scripts.embedded_model.camera.devices import encode_jpeg
from scripts.embedded_model.data_stamp import claim_folder, refuse_surplus
from scripts.embedded_model.scenes import Scene, compose
from scripts.embedded_model.symbols import CLASS_NAMES, Rng

SPLITS = ("train", "val", "test")


def picture_rng(seed: int, split: str, index: int) -> Rng:
    """Generator of one picture; splits never share a stream.

    Raises:
        ValueError: `split` is not one of `SPLITS`.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index])


def label_lines(scene: Scene) -> str:
    """YOLO text: `class x_center y_center width height`, all but the class relative to the picture."""
    height, width = scene.image.shape[:2]
    lines = []
    for target in scene.targets:
        x0, y0, x1, y1 = target.box
        values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(f"{target.class_id} " + " ".join(f"{v:.6f}" for v in values) + "\n")
    return "".join(lines)


def make_picture(seed: int, split: str, index: int) -> tuple[bytes, str]:
    """(JPEG bytes, label text) of one picture."""
    rng = picture_rng(seed, split, index)
    scene = compose(rng)
    return encode_jpeg(rng, scene.image), label_lines(scene)


def _write_one(root: Path, seed: int, split: str, index: int) -> None:
    picture = root / "images" / split / f"{index:06d}.jpg"
    if picture.exists():
        return
    jpeg, labels = make_picture(seed, split, index)
    (root / "labels" / split / f"{index:06d}.txt").write_text(labels)
    partial_file = picture.with_suffix(".part")
    partial_file.write_bytes(jpeg)
    partial_file.rename(picture)


def _single_threaded() -> None:
    cv2.setNumThreads(1)


def write_dataset(
    root: Path, seed: int, counts: dict[str, int], processes: int, adopt: bool = False, first_train: int = 0
) -> Path:
    """Write the missing pictures of every split and `data.yaml`; returns the path of the latter.

    Args:
        adopt: take pictures that lie there for this generator's, whatever drew them.
        first_train: index of the first training picture; a later run draws pictures that no earlier one has seen.

    Raises:
        DataRefused: the folder holds pictures of another generator or seed, or others than `counts` and
            `first_train` say.
    """
    wanted = {split: range(count) for split, count in counts.items()}
    if "train" in counts:
        wanted["train"] = range(first_train, first_train + counts["train"])
    for split, indices in wanted.items():
        refuse_surplus(root / "images" / split, indices)
    claim_folder(root, seed, adopt)
    for split, indices in wanted.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(processes, initializer=_single_threaded) as pool:
            pool.map(partial(_write_one, root, seed, split), indices, chunksize=16)
    lines = [f"path: {root.resolve()}"]
    lines += [f"{split}: images/{split}" for split in SPLITS]
    lines += ["names:", *(f"  {number}: {name}" for number, name in enumerate(CLASS_NAMES))]
    target = root / "data.yaml"
    target.write_text("\n".join(lines) + "\n")
    return target
