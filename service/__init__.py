"""yolofold: YOLO26 with its BatchNorm folded away, served fast, and still able to account for every layer of it."""

import os
import sys

__version__ = "0.2.0"

# Since 1.29 ONNX Runtime reports each session (model name, weight hashes, machine) to its maker unless this is set
# before it is loaded. What people serve here is nobody else's business.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# NumPy's linear algebra would take every core, and its threads spin while they wait for one that the network has. What
# is computed here is small; one thread also keeps it within the budget that watching for drift has. As above: before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# OpenVINO counts each import with Google Analytics through this package, unasked, and has no switch but its absence.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# The converter of other frameworks' models, 8 MB, which OpenVINO loads along with itself where it can.
sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
