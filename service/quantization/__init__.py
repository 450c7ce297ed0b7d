"""``python -m service quantize``: the deployed graph in int8, in a bundle of its own, if it finds the same boxes."""
