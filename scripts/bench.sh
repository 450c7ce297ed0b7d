#!/usr/bin/env bash
# Benchmark yolofold beside other servers: makes their environments, prepares a bundle if there is none, and measures.
# Arguments go to scripts/bench (--help lists them). BENCH_ENVIRONMENTS puts the peers' environments elsewhere.
# YOLOFOLD_WEIGHTS and YOLOFOLD_BUNDLE_DIR choose the bundle; with weights of your own, pass --weights FILE as well.
# shellcheck source=scripts/environment.sh
. "$(dirname "$0")/environment.sh"
export YOLOFOLD_WEIGHTS=${YOLOFOLD_WEIGHTS:-embedded}
environments=${BENCH_ENVIRONMENTS:-runs/bench-environments}

need_wrk() {
  if command -v wrk >/dev/null; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -yqq --no-install-recommends wrk >/dev/null
  else
    echo "wrk is needed (Debian: apt-get install wrk)." >&2
    exit 1
  fi
}

need_peer() { # need_peer NAME: one that cannot be installed is listed in the report, the others are measured
  local lock=scripts/bench/requirements/$1.txt folder=$environments/$1 wanted
  wanted=$(sha256sum <"$lock")
  if [ -f "$folder/.installed" ] && [ "$(cat "$folder/.installed")" = "$wanted" ]; then return; fi
  echo "Installing $lock into $folder ..." >&2
  rm -rf "$folder"
  "${PYTHON:-python3}" -m venv "$folder" || return 1
  if [ -n "${TORCH_INDEX_URL:-}" ] && grep -q '^torch==' "$lock"; then
    # First and by itself, so that the index serves nothing but torch.
    grep -E '^(torch|torchvision)==' "$lock" | xargs "$folder/bin/python" -m pip install -q --index-url "$TORCH_INDEX_URL" || return 1
  fi
  "$folder/bin/python" -m pip install -q -r "$lock" || return 1
  echo "$wanted" >"$folder/.installed"
}

need_environment serve
case " $* " in *" --help "* | *" -h "*) exec "$python" -m scripts.bench --help ;; esac
need_environment serve-openvino
need_wrk
for lock in scripts/bench/requirements/*.txt; do
  name=$(basename "$lock" .txt)
  need_peer "$name" || rm -rf "${environments:?}/$name"
done
status=0
bundle=$("$python" -m service bundle 2>/dev/null) || status=$?
if [ "$status" = 3 ]; then
  need_environment prepare
  "$python" -m service prepare
  bundle=$("$python" -m service bundle)
elif [ "$status" != 0 ]; then
  exec "$python" -m service bundle # says why
fi
exec "$python" -m scripts.bench --bundle "$bundle" --environments "$environments" "$@"
