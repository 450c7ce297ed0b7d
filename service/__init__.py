"""yolofold: YOLO26 with its BatchNorm folded away, served fast, and still able to account for every layer of it."""

__version__ = "0.1.0"
