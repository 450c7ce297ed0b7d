"""``python -m service quantize`` and ``halve``: the deployed graph in int8 or fp16, in a bundle of its own, if it finds
the same boxes."""
