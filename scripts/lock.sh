#!/usr/bin/env bash
# Resolve pyproject.toml afresh into requirements/*.txt. Run it after changing a dependency, then run the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
lock() { # lock NAME EXTRAS: freeze what the extras install on top of what is there
  "$scratch/venv/bin/pip" install -q ".$2"
  # torch pins its own CUDA parts, which the CPU-only build does without.
  "$scratch/venv/bin/pip" freeze --exclude yolofold | grep -vE '^(nvidia|cuda|triton)' | sed 's/+.*//' >"requirements/$1.txt"
}
lock serve ""
lock prepare "[prepare]"
lock dev "[prepare,evaluate,train,openvino,dev]"
# Installed on top of serve.txt where OpenVINO is wanted.
grep '^openvino' requirements/dev.txt >requirements/serve-openvino.txt
