#!/usr/bin/env bash
# Every check and every test. Arguments go to pytest. Two tests at a time, each file's in one process: while one of
# them waits, for a server or a time limit, the other one computes.
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
need_environment dev
need_browser
./scripts/check.sh
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
