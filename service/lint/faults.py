"""The faults that the linter knows: what each does to a tensor, how it is undone, and what to do about it.

A right tensor is RGB, float32, scaled to 0..1, channels first, its picture letterboxed on grey 114.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.preprocessing import corruptions

Tensor = NDArray[np.float32]
Picture = NDArray[np.uint8]

#: Half a step of eight bits, of values from 0 to 1: closer ones cannot be told apart in a picture.
HALF_STEP = 0.5 / 255

#: Mean and standard deviation of ImageNet's RGB pixels, as torchvision publishes them for its own networks.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


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


class Extremes(NamedTuple):
    """Values of tensors per channel, each (3, 1, 1): the lowest, the 2nd and the 98th percentile, the highest."""

    low: Tensor
    most_low: Tensor
    most_high: Tensor
    high: Tensor


def find_extremes(pictures: Iterable[Tensor]) -> Extremes:
    """The extremes of tensors (3, H, W), taken one after the other; percentiles of an even selection of the values."""
    lows, highs, few = [], [], []
    for picture in pictures:
        lows.append(picture.min((1, 2), keepdims=True))
        highs.append(picture.max((1, 2), keepdims=True))
        step = math.ceil(math.sqrt(picture.size / _PERCENTILE_VALUES))
        few.append(picture[:, ::step, ::step].reshape(3, -1))  # a copy, so that the picture itself may go
    ends = np.percentile(np.concatenate(few, axis=1), (2, 98), axis=1).astype(np.float32)
    most_low, most_high = ends[..., None, None]
    return Extremes(np.min(lows, axis=0), most_low, most_high, np.max(highs, axis=0))


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
        right = tensor - self.offset
        right /= self.gain  # in place: a tensor may be large
        return right

    def possible(self, extremes: Extremes) -> bool:
        """Whether tensors with these extremes can be scaled like this.

        Undone, nearly all values must lie within 0..1; interpolation may carry a few past the ends. Values within 0..1
        are not taken for a wider range: all of the picture would have to be nearly black, or brighter than average.
        """
        low, most_low, most_high, high = (self.undo(values) for values in extremes)
        span = most_high - most_low
        if (most_low < -SLACK * span).any() or (most_high > 1 + SLACK).any():
            return False
        if (low < -OVERSHOOT * span).any() or (high > 1 + OVERSHOOT).any():
            return False
        return self.hides or bool((extremes.most_low < -SLACK).any() or (extremes.most_high > 1 + SLACK).any())


def _factor(value: float) -> Tensor:
    return np.full((3, 1, 1), value, np.float32)


#: Nearly all values may lie this far past the ends, and single ones, after cubic or Lanczos interpolation, that far.
SLACK, OVERSHOOT = 0.02, 0.35
#: Of each picture, at most about.
_PERCENTILE_VALUES = 30_000
#: What finding the extremes keeps of each picture, and the copies that percentiles take.
EXTREMES_BYTES = 16 * _PERCENTILE_VALUES
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
BLURRED = Fault("blurred", "out of focus or moved", "Look at the lens, its focus and the exposure time.")
DARK = Fault("dark", "darker than before", "Look at the light and the exposure.")
NOISY = Fault("noisy", "noisier than before", "More light or a longer exposure lets the camera amplify less.")
COMPRESSED = Fault("compressed", "heavily compressed", "Raise the JPEG quality; 75 and more does no harm.")
#: What the statistics can only tell after calibration, in the order of `spoil_picture`.
PICTURE_FAULTS = (
    RIGHT_PICTURE,
    CHANNELS_SWAPPED,
    INVERTED,
    GREY,
    STRETCHED,
    BLURRED,
    DARK,
    NOISY,
    COMPRESSED,
)


def spoil_picture(content: Picture, stretched: Picture) -> Iterator[Picture]:
    """One picture with each of `PICTURE_FAULTS` in their order; all (H, W, 3) uint8 BGR, made one after the other.

    Args:
        content: the picture as it lies inside the letterbox, without the padding.
        stretched: (S, S, 3) the same picture resized to the square without regard to its proportions.
    """
    spoil: dict[Fault, Callable[[Picture], Picture]] = {
        RIGHT_PICTURE: lambda picture: picture,
        CHANNELS_SWAPPED: corruptions.swap_channels,
        INVERTED: lambda picture: np.asarray(255 - picture, np.uint8),
        GREY: _take_colour,
        STRETCHED: lambda _: stretched,
        BLURRED: corruptions.blur,
        DARK: corruptions.darken,
        NOISY: corruptions.add_noise,
        COMPRESSED: corruptions.compress,
    }
    for fault in PICTURE_FAULTS:
        yield spoil[fault](content)


def _take_colour(picture: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
