#!/usr/bin/env bash
# What a machine with a GPU checks: the tests marked gpu, and a short training of the image and volume networks
# against their peers. Run it in the repository root:
#
#   MEDFORMER_DATA=/path/to/data OUT=gpu-results benchmarks/on_gpu.sh [tests] [polyp] [volume]
#
# Without arguments it runs all three. Each step leaves its output in $OUT/STEP.txt and its exit code in
# $OUT/exit_codes.txt; the benchmarks also leave their numbers as JSON. A step that fails does not stop the others;
# the script then exits with 1. Weights and prepared data go to a temporary folder.
#
# DEVICE (cuda), MINUTES (2, of training for each network) and PYTHON (.venv/bin/python, or python) can be set.
set -u

: "${OUT:?name a folder for the results in OUT}"
: "${MEDFORMER_DATA:?name the data folder in MEDFORMER_DATA}"
DEVICE=${DEVICE:-cuda}
MINUTES=${MINUTES:-2}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
export MEDFORMER_DATA PYTHONPATH="$PWD"

mkdir -p "$OUT"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

step() {
  local name=$1 began=$SECONDS code
  shift
  "$@" >"$OUT/$name.txt" 2>&1
  code=$?
  [ "$code" -eq 0 ] || failed=1
  echo "$name: exit code $code, $((SECONDS - began)) s" | tee -a "$OUT/exit_codes.txt"
}

benchmark() {
  local name=$1
  shift
  step "$name" "$PYTHON" "benchmarks/${name}_accuracy.py" --out "$work/$name" --device "$DEVICE" --minutes "$MINUTES" "$@"
  cp "$work/$name/${name}_accuracy.json" "$OUT" 2>/dev/null
}

{
  date -u
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
} >"$OUT/exit_codes.txt"
[ "$#" -gt 0 ] || set -- tests polyp volume
for name in "$@"; do
  case $name in
    tests) step tests "$PYTHON" -m pytest -m gpu ;;
    polyp) benchmark polyp ;;
    volume) benchmark volume --folds 1 ;;
    *)
      echo "on_gpu.sh: there is no step $name; expected tests, polyp or volume" >&2
      exit 2
      ;;
  esac
done
exit "$failed"
