#!/usr/bin/env bash
# Serve: makes the environment, prepares a bundle if there is none for these settings, and starts the server.
# Settings are YOLOFOLD_* environment variables; README lists them.
# A relative path to weights is seen from the folder that this is called in, which environment.sh leaves.
if [ -f "${YOLOFOLD_WEIGHTS:-}" ] && [ "${YOLOFOLD_WEIGHTS#/}" = "$YOLOFOLD_WEIGHTS" ]; then
  export YOLOFOLD_WEIGHTS=$PWD/$YOLOFOLD_WEIGHTS
fi
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
need_environment serve
case ${YOLOFOLD_ENGINE:-} in
  openvino | auto) need_environment serve-openvino ;;
esac
status=0
"$python" -m service bundle >/dev/null 2>&1 || status=$?
if [ "$status" = 3 ]; then # none that can be served; any other failure is reported by serve itself
  need_environment prepare
  "$python" -m service prepare
fi
exec "$python" -m service serve
