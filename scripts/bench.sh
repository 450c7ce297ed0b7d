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

need_apart() { # need_apart NAME LOCK...: an environment of its own, of those locks and nothing else
  local folder=$environments/$1 wanted
  shift
  wanted=$(cat "$@" | sha256sum)
  if [ -f "$folder/.installed" ] && [ "$(cat "$folder/.installed")" = "$wanted" ]; then return; fi
  echo "Installing $* into $folder ..." >&2
  rm -rf "$folder"
  "${PYTHON:-python3}" -m venv "$folder" || return 1
  if [ -n "${TORCH_INDEX_URL:-}" ] && grep -q '^torch==' "$@"; then
    # First and by itself, so that the index serves nothing but torch.
    grep -hE '^(torch|torchvision)==' "$@" | xargs "$folder/bin/python" -m pip install -q --index-url "$TORCH_INDEX_URL" || return 1
  fi
  "$folder/bin/python" -m pip install -q "${@/#/-r}" || return 1
  echo "$wanted" >"$folder/.installed"
}

need_environment serve
case " $* " in *" --help "* | *" -h "*) exec "$python" -m scripts.bench --help ;; esac
need_environment serve-openvino
need_wrk
# Ours, too, with nothing but what serving needs: what is installed is part of the comparison.
need_apart yolofold requirements/serve.txt
need_apart yolofold-openvino requirements/serve.txt requirements/serve-openvino.txt
for lock in scripts/bench/requirements/*.txt; do
  name=$(basename "$lock" .txt)
  # One that cannot be installed is listed in the report, the others are measured.
  need_apart "$name" "$lock" || rm -rf "${environments:?}/$name"
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
