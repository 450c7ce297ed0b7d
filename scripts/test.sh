#!/usr/bin/env bash
# Every check and every test. Arguments go to pytest.
. "$(dirname "$0")/environment.sh"
need_environment dev
./scripts/check.sh
exec "$python" -m pytest "$@"
