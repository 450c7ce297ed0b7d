"""Pixels in, detections out; knows nothing of HTTP."""
