"""Pixels of any size to the network's input and back. A leaf: numpy and OpenCV only."""
