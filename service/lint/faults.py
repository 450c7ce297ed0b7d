"""The faults that the linter knows: what each does to a tensor, how it is undone, and what to do about it.

A right tensor is RGB, float32, scaled to 0..1, channels first, its picture letterboxed on grey 114.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]

#: Mean and standard deviation of ImageNet's RGB pixels, as torchvision publishes them for its own networks.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]  # ITU-R BT.601, what OpenCV's grey is made of


@dataclass(frozen=True, eq=False)
class Fault:
    """One way to spoil the preprocessing.

    Attributes:
        name: its code in answers.
        title: what is wrong, in a few words.
        advice: how to put it right.
    """

    name: str
    title: str
    advice: str


@dataclass(frozen=True, eq=False)
class Scaling(Fault):
    """A range of values: right ones times ``gain`` plus ``offset``, each (3, 1, 1) or a number.

    ``hides`` says that a picture scaled like this may have no value outside 0..1.
    """

    gain: Tensor
    offset: Tensor
    hides: bool

    def apply(self, tensor: Tensor) -> Tensor:
        """The right tensor (3, H, W) scaled like this."""
        return tensor * self.gain + self.offset

    def undo(self, tensor: Tensor) -> Tensor:
        """The right tensor that was scaled like this."""
        return (tensor - self.offset) / self.gain

    def possible(self, low: float, high: float) -> bool:
        """Whether a tensor with these extremes can be scaled like this.

        Values within 0..1 are not taken for a wider range: all of the picture would have to be nearly black, or
        brighter than average.
        """
        lowest, highest = float(self.offset.min()), float((self.gain + self.offset).max())
        slack = SLACK * min(highest - lowest, 1.0)
        if low < lowest - slack or high > highest + slack:
            return False
        return self.hides or low < -SLACK or high > 1 + SLACK


def _factor(value: float) -> Tensor:
    return np.full((3, 1, 1), value, np.float32)


#: Resizing may carry values this far past 0..1, or past a smaller range in proportion.
SLACK = 0.02
RIGHT_SCALE = Scaling("none", "values from 0 to 1", "", _factor(1), _factor(0), hides=True)
SCALINGS = (
    RIGHT_SCALE,
    Scaling(
        "scale_0_255",
        "values from 0 to 255",
        "Divide by 255 once before the network.",
        _factor(255),
        _factor(0),
        hides=False,
    ),
    Scaling(
        "divided_twice",
        "divided by 255 twice",
        "Divide by 255 only once; some loaders do it already.",
        _factor(1 / 255),
        _factor(0),
        hides=True,
    ),
    Scaling(
        "imagenet_normalised",
        "ImageNet's mean and standard deviation applied",
        "Leave mean and standard deviation out: this network normalises with its own BatchNorm.",
        np.reciprocal(IMAGENET_STD),
        -IMAGENET_MEAN / IMAGENET_STD,
        hides=False,
    ),
    Scaling(
        "scale_minus1_1",
        "values from -1 to 1",
        "Divide by 255 and subtract nothing.",
        _factor(2),
        _factor(-1),
        hides=False,
    ),
)

RIGHT_PICTURE = Fault("none", "as the network was calibrated", "")
CHANNELS_SWAPPED = Fault(
    "channels_swapped",
    "red and blue swapped",
    "OpenCV reads BGR: turn it into RGB for the tensor; an image file needs nothing.",
)
INVERTED = Fault("inverted", "a negative, light and dark exchanged", "Take the values off their maximum once more.")
GREY = Fault("grey", "without colour", "Send colour, or train and calibrate on grey pictures if the camera has none.")
STRETCHED = Fault(
    "stretched",
    "stretched to the square",
    "Letterbox: keep the proportions and fill the rest with grey 114.",
)
#: What the statistics can only tell after calibration, in the order of `spoil_picture`.
PICTURE_FAULTS = (RIGHT_PICTURE, CHANNELS_SWAPPED, INVERTED, GREY, STRETCHED)


def spoil_picture(content: Tensor, stretched: Tensor) -> dict[str, Tensor]:
    """One picture with each of `PICTURE_FAULTS`, by the fault's name.

    Args:
        content: (3, H, W) the picture as it lies inside the letterbox, without the padding.
        stretched: (3, S, S) the same picture resized to the square without regard to its proportions.
    """
    return {
        RIGHT_PICTURE.name: content,
        CHANNELS_SWAPPED.name: np.ascontiguousarray(content[::-1]),
        INVERTED.name: 1 - content,
        GREY.name: np.repeat((content * _LUMA).sum(0, keepdims=True), 3, 0),
        STRETCHED.name: stretched,
    }
