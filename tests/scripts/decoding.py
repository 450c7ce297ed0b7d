"""zxing-cpp as the independent reader of generated pictures."""

import numpy as np
import zxingcpp

# What zxing-cpp reports for the symbols of each class, as independent reference.
_FORMATS = {
    0: {
        "EAN-13", "EAN-8", "UPC-A", "UPC-E", "Code 39", "Code 93", "Code 128", "ITF", "Codabar",
        "DataBar Omni", "DataBar Stacked", "DataBar Stacked Omni", "DataBar Limited", "DataBar Expanded",
        "DataBar Expanded Stacked", "Code 39 Standard", "Code 39 Extended", "ISBN", "ITF-14",
    },
    1: {"QR Code", "QR Code Model 2", "Micro QR Code", "rMQR Code"},
    2: {"Data Matrix"},
    3: {"PDF417", "Compact PDF417", "MicroPDF417"},
    4: {"Aztec", "Aztec Code", "Aztec Rune"},
}  # fmt: skip


CLASS_OF_FORMAT = {name: class_id for class_id, names in _FORMATS.items() for name in names}


def corners(position):
    """The four corners of a decoded code, 4x2 pixels."""
    points = (position.top_left, position.top_right, position.bottom_right, position.bottom_left)
    return np.array([(p.x, p.y) for p in points])


def read_codes(image):
    """(class, corners) of every code that the decoder reads in a BGR picture; class -1 for other families."""
    return [(CLASS_OF_FORMAT.get(str(f.format), -1), corners(f.position)) for f in zxingcpp.read_barcodes(image)]
