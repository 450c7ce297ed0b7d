"""Weights in, bundle out. The only part of the project that imports torch or ultralytics."""

import os

# All of these are read once, when torch or Ultralytics is imported, so they must stand before any module here does so.
# OpenMP threads would spin at every barrier, which on a machine with anything else to do slows each pass many times
# over and drowns the latency measurement.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Safe loading restricts unpickling to an allow-list of model classes; auto-install would run pip because a file
# asked for it.
os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("YOLO_VERBOSE", "false")
