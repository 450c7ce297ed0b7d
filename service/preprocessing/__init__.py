"""Pixels of any size to the network's square input and back. A leaf: numpy and OpenCV only."""
