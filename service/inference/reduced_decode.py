"""How much smaller than it is a JPEG may be decoded, because the network would only see it smaller still.

libjpeg's inverse cosine transform can give a block of 8 x 8 pixels as 4 x 4, 2 x 2 or 1 x 1, which costs less time and
memory than all of them. It leaves the fine structure out, where bilinear interpolation over large distances picks some
pixels and lets their structure alias: the network gets a smoother picture than Ultralytics' loader would give it.
"""

from service.inference.headers import ImageHeader
from service.preprocessing.letterbox import plan_letterbox

_REDUCTIONS = (8, 4, 2)
NOT_REDUCED = 1


def choose_reduction(header: ImageHeader, size: int) -> int:
    """The largest of 8, 4, 2 and 1 by which both sides can be divided for a square input of ``size`` pixels.

    The reduced picture is never smaller than the letterboxed one. The sides must be multiples of the divisor: otherwise
    the last block is part padding, and the reduced picture would show more than the picture, to scale. Formats other
    than JPEG have no such decoder.
    """
    if header.format != "JPEG":
        return NOT_REDUCED
    # Turning it upright exchanges both pairs of sides alike.
    least_width, least_height = plan_letterbox(header.width, header.height, size).resized_wh
    for reduction in _REDUCTIONS:
        if header.width % reduction or header.height % reduction:
            continue
        if header.width // reduction >= least_width and header.height // reduction >= least_height:
            return reduction
    return NOT_REDUCED
