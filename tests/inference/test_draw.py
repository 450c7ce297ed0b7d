"""What is drawn lies where the detections are, and nowhere else."""

import cv2
import numpy as np
import pytest

from service.inference.detections import Detections
from service.inference.draw import class_colour, draw_detections, encode_picture


def detections(*xyxy: list[float], class_id: int = 0) -> Detections:
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.3, len(xyxy), dtype=np.float32),
        np.full(len(xyxy), class_id, np.int64),
    )


def test_the_outline_has_the_class_colour_and_the_inside_is_untouched() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    draw_detections(image, detections([100, 150, 300, 350], class_id=3), ["a", "b", "c", "d"])
    assert image[250, 100].tolist() == list(class_colour(3))
    assert image[350, 200].tolist() == list(class_colour(3))
    assert (image[160:340, 110:290] == 128).all()
    assert (image[360:] == 128).all()
    assert (image[130:149, 100:140] != 128).any()  # the label


@pytest.mark.parametrize("shape", [(1, 1), (8, 3000), (3000, 8), (20, 20)])
@pytest.mark.parametrize("name", ["x", "a very long name that fits nowhere", "näme 名", ""])
def test_boxes_and_labels_at_the_edges_of_any_picture(shape: tuple[int, int], name: str) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    height, width = shape
    draw_detections(image, detections([0, 0, width, height], [width, height, width, height], [0, 0, 0, 0]), [name])
    assert image.any()


def test_no_detections_change_nothing() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    draw_detections(image, detections(), [])
    assert not image.any()


def test_png_is_exact_and_jpeg_close() -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8), (0, 0), 5)
    png, jpeg = (encode_picture(image, kind) for kind in ("png", "jpeg"))
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), image)
    assert np.abs(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int) - image).max() < 12


def test_neighbouring_classes_look_different() -> None:
    colours = [np.array(class_colour(i)) for i in range(8)]
    assert min(np.abs(a - b).sum() for i, a in enumerate(colours) for b in colours[:i]) > 60
