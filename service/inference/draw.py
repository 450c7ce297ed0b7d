"""Boxes and labels drawn into a picture."""

import colorsys
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.inference.detections import Detections

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_JPEG_QUALITY = 92
# Steps of the golden ratio keep the hues of neighbouring class ids far apart.
_HUE_STEP = 0.618034


def draw_detections(image: NDArray[np.uint8], detections: Detections, names: Sequence[str]) -> None:
    """Draw into ``image`` (H, W, 3) uint8 BGR, in place; the most confident box ends up on top."""
    thickness = max(1, round(sum(image.shape[:2]) / 800))
    for index in reversed(range(len(detections))):
        class_id = int(detections.class_id[index])
        x1, y1, x2, y2 = (round(float(v)) for v in detections.xyxy[index])
        colour = class_colour(class_id)
        cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
        _draw_label(image, f"{names[class_id]} {detections.confidence[index]:.2f}", (x1, y1), colour, thickness)


def class_colour(class_id: int) -> Colour:
    """A vivid BGR colour for a class id; always the same one."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * _HUE_STEP % 1, 0.75, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def encode_picture(image: NDArray[np.uint8], picture_format: Literal["jpeg", "png"]) -> bytes:
    """Encode (H, W, 3) uint8 BGR as a JPEG or PNG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if picture_format == "jpeg" else []
    _, encoded = cv2.imencode(f".{picture_format}", image, options)
    return encoded.tobytes()


def _draw_label(image: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: Colour, thickness: int) -> None:
    # Hershey fonts hold printable ASCII only.
    text = text.encode("ascii", "replace").decode()
    scale = 0.3 + thickness * 0.2
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, max(1, thickness // 2))
    height = text_height + below + 2
    left = max(0, min(corner[0], image.shape[1] - text_width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    cv2.rectangle(image, (left, top), (left + text_width, top + height), colour, cv2.FILLED)
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else (255, 255, 255)
    baseline = (left, top + text_height + 1)
    cv2.putText(image, text, baseline, _FONT, scale, ink, max(1, thickness // 2), cv2.LINE_AA)
