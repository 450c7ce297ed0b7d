"""Procedural pictures of machine-readable codes and the training run that uses them."""
