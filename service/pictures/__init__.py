"""Drawn pictures of codes that come with the project: folds are proved on them, and engines compared."""

from pathlib import Path

PICTURES = Path(__file__).parent
