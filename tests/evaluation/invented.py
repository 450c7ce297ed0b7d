"""Invented objects and boxes: some right, some shifted, some of the wrong class, some from nowhere."""

from pathlib import Path

import numpy as np

from service.evaluation.data_set import Picture, objects_of
from service.inference.detections import Detections

CLASSES = 3
SIDE = 640


def invent(pictures: int, seed: int, crowds: bool = False) -> tuple[list[Picture], list[Detections]]:
    """Pictures of 640 x 640 px, every sixth empty, with objects of all of COCO's sizes, and boxes for each."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(pictures):
        count = 0 if number % 6 == 5 else int(rng.integers(1, 9))
        corner = rng.uniform(0, 400, (count, 2))
        xyxy = np.concatenate([corner, corner + np.exp(rng.uniform(2, 5.4, (count, 2)))], axis=1)
        class_id = rng.integers(0, CLASSES, count)
        crowd = rng.random(count) < 0.2 if crowds else np.zeros(count, bool)
        objects = objects_of(xyxy.tolist(), class_id.tolist(), crowd=crowd.tolist())
        truth.append(Picture(Path(f"{number}.jpg"), SIDE, SIDE, objects))
        found.append(_boxes_near(rng, xyxy, class_id))
    return truth, found


def _boxes_near(rng: np.random.Generator, xyxy: np.ndarray, class_id: np.ndarray) -> Detections:
    repeats = np.repeat(np.arange(len(xyxy)), rng.integers(0, 4, len(xyxy)))
    sides = (xyxy[repeats, 2:] - xyxy[repeats, :2]).repeat(2, axis=0).reshape(-1, 4)
    near = xyxy[repeats] + rng.normal(0, 0.08, (len(repeats), 4)) * sides
    stray = rng.uniform(0, 400, (int(rng.integers(0, 5)), 2))
    boxes = np.concatenate([near, np.concatenate([stray, stray + 60], axis=1)])
    classes = np.concatenate([class_id[repeats], rng.integers(0, CLASSES, len(stray))])
    wrong = rng.random(len(classes)) < 0.15
    classes[wrong] = (classes[wrong] + 1) % CLASSES
    confidence = rng.beta(1.2, 1.6, len(boxes)).astype(np.float32)
    order = np.argsort(-confidence, kind="stable")
    return Detections(boxes[order].astype(np.float32), confidence[order], classes[order].astype(np.int64))


def as_coco(truth: list[Picture], found: list[Detections], classes: int = CLASSES) -> tuple[dict, list[dict]]:
    """The same as COCO's annotation document and result list, all classes in one; pictures by their position."""
    annotations = [
        {
            "id": 0,
            "image_id": number,
            "category_id": int(picture.objects.class_id[i]),
            "bbox": _xywh(picture.objects.xyxy[i]),
            "area": float(picture.objects.area[i]),
            "iscrowd": int(picture.objects.crowd[i]),
        }
        for number, picture in enumerate(truth)
        for i in range(len(picture.objects))
    ]
    for place, annotation in enumerate(annotations, 1):
        annotation["id"] = place
    document = {
        "images": [{"id": number, "width": p.width, "height": p.height} for number, p in enumerate(truth)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(classes)],
        "annotations": annotations,
    }
    results = [
        {
            "image_id": number,
            "category_id": int(boxes.class_id[i]),
            "bbox": _xywh(boxes.xyxy[i]),
            "score": float(boxes.confidence[i]),
        }
        for number, boxes in enumerate(found)
        for i in range(len(boxes))
    ]
    return document, results


def _xywh(xyxy: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = xyxy.astype(np.float64).tolist()
    return [x1, y1, x2 - x1, y2 - y1]
