"""Ultralytics, imported with its risky conveniences off. Everything else in ``prepare`` gets it from here."""

import os

# Ultralytics reads these once, at import. Safe loading restricts unpickling to an allow-list of model classes;
# auto-install would run pip because a file asked for it.
os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("YOLO_VERBOSE", "false")

import torch
import ultralytics
from ultralytics.nn.modules import Detect, v10Detect
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import SAFE_LOAD
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

# Older torch makes Ultralytics fall back to unrestricted unpickling without a word.
_MINIMUM_TORCH = (2, 10)
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _MINIMUM_TORCH or not SAFE_LOAD:
    raise ImportError(f"Safe loading needs torch 2.10 or newer; this is {torch.__version__} (safe={SAFE_LOAD}).")

ULTRALYTICS_VERSION: str = ultralytics.__version__
OFFICIAL_NAMES = frozenset(name for name in GITHUB_ASSETS_NAMES if name.endswith(".pt"))

__all__ = ["OFFICIAL_NAMES", "ULTRALYTICS_VERSION", "Detect", "load_checkpoint", "v10Detect"]
