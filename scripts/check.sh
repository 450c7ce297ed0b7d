#!/usr/bin/env bash
# Lint, formatting and types.
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
need_environment dev
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
