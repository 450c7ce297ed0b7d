"""Sound JPEGs by libjpeg-turbo's own interface, which gives the pixels that OpenCV gives in two thirds of its time.

It reads from memory and takes its assembly for putting colours together, where OpenCV reads a file and converts rows
by itself.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from service.inference.headers import ImageHeader


def decode_sound_jpeg(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8] | None:
    """Pixels as stored, (H, W, 3) uint8 BGR, both sides divided by ``reduction`` (1, 2, 4 or 8).

    None where the decoder would not swear to them: the file is damaged or holds stray bytes. What becomes of such a
    file is for another decoder to say.

    Args:
        header: of the same bytes, not CMYK, for which this decoder takes four bytes a pixel besides; its sides are
            multiples of ``reduction``.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="BGR", min_width=header.width // reduction, min_height=header.height // reduction
        )
    except ValueError:  # strict, so at libjpeg's warnings, too
        return None
    return pixels
