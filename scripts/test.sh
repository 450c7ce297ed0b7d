#!/usr/bin/env bash
# Every check and every test. Arguments go to pytest.
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
need_environment dev
need_browser
./scripts/check.sh
exec "$python" -m pytest "$@"
