# shellcheck shell=bash
# Sourced by the other scripts: one virtual environment, installed from the lock files, reused while they are unchanged.
# Set VENV to put it elsewhere, PYTHON to choose the interpreter, TORCH_INDEX_URL for a CPU-only torch
# (https://download.pytorch.org/whl/cpu); pip's own PIP_* variables apply as always.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
python=$venv/bin/python

is_new_enough() { # is_new_enough INTERPRETER
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

# With the version of Python: where the system's gives way to a newer one, what was installed for the old is out of reach.
what_is_wanted() {
  { cat requirements/*.txt; "$python" --version 2>/dev/null || true; } | sha256sum
}

need_environment() { # need_environment serve|serve-openvino|prepare|dev
  local lock=requirements/$1.txt stamp=$venv/.installed-$1
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(what_is_wanted)" ]; then return; fi
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    is_new_enough "${PYTHON:-python3}" || { echo "Python 3.11 or newer is needed; PYTHON=... names one." >&2; exit 1; }
    "${PYTHON:-python3}" -m venv "$venv"
  elif ! is_new_enough "$python"; then
    echo "$venv holds $("$python" --version), but 3.11 or newer is needed. Remove it, or set VENV to another." >&2
    exit 1
  fi
  echo "Installing $lock into $venv ..." >&2
  if [ "${1%%-*}" != serve ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
    # First and by itself, so that the index serves nothing but torch.
    grep -E '^(torch|torchvision)==' requirements/prepare.txt | xargs "$python" -m pip install -q --index-url "$TORCH_INDEX_URL"
  fi
  "$python" -m pip install -q -r "$lock"
  what_is_wanted >"$stamp"
}

need_browser() { # for the tests of the page, which are skipped where none can be had; REQUIRE_BROWSER=1 insists on one
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq &&
    apt-get install -yqq --no-install-recommends chromium >/dev/null; then return; fi
  if "$python" -m playwright install chromium; then return; fi
  if [ -n "${REQUIRE_BROWSER:-}" ]; then
    echo "There is no browser and none can be installed, but REQUIRE_BROWSER is set." >&2
    exit 1
  fi
  echo "WARNING: there is no browser and none can be installed: THE TESTS OF THE PAGE WILL BE SKIPPED." >&2
}
