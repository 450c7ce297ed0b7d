"""Weights in, bundle out. The only part of the project that imports torch or ultralytics."""

import os

# OpenMP reads this when torch is loaded. Its threads would otherwise spin at every barrier, which on a machine with
# anything else to do slows each pass many times over and drowns the latency measurement.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
