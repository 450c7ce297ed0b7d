#!/usr/bin/env bash
# Serve: makes the environment, prepares a bundle if there is none for these settings, and starts the server.
# Settings are YOLOFOLD_* environment variables; README lists them.
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
need_environment serve
if [ "${YOLOFOLD_ENGINE:-}" = openvino ]; then need_environment serve-openvino; fi
status=0
"$python" -m service bundle >/dev/null 2>&1 || status=$?
if [ "$status" = 3 ]; then # none that can be served; any other failure is reported by serve itself
  need_environment prepare
  "$python" -m service prepare
fi
exec "$python" -m service serve
