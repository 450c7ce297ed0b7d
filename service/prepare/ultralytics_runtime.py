"""What is used of Ultralytics, refused unless it was imported with its risky conveniences off."""

import torch
import ultralytics
from ultralytics.nn.modules import Detect, Focus, v10Detect
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import AUTOINSTALL, SAFE_LOAD
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

# Older torch makes Ultralytics fall back to unrestricted unpickling without a word.
_MINIMUM_TORCH = (2, 10)
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _MINIMUM_TORCH:
    raise ImportError(f"Safe loading needs torch 2.10 or newer; this is {torch.__version__}.")
if not SAFE_LOAD or AUTOINSTALL:
    raise ImportError("Ultralytics was imported before service.prepare, without safe loading or with auto-install on.")

ULTRALYTICS_VERSION: str = ultralytics.__version__
OFFICIAL_NAMES = frozenset(name for name in GITHUB_ASSETS_NAMES if name.endswith(".pt"))

__all__ = ["OFFICIAL_NAMES", "ULTRALYTICS_VERSION", "Detect", "Focus", "load_checkpoint", "v10Detect"]
