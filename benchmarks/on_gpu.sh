#!/usr/bin/env bash
# What a machine with a GPU checks and measures, in about eight minutes, with one table last. Run it in the repository root:
#
#   MEDFORMER_DATA=/path/to/data OUT=gpu-results benchmarks/on_gpu.sh [--tiny] [PART ...]
#
# Parts, all of them without arguments:
#   backbone      backbones against timm, float32, TF32 and bfloat16, 224 and 352 px, inference and training steps
#   volume        meta_unet_fine against DynUNet, MedNeXt and SwinUNETR at 128^3: time and memory
#   tests         the tests marked gpu
#   compiled      the backbone part with both sides compiled, at 224 px
#   polyp         PraNet's protocol at 352 px, ours and a U-Net, MINUTES each
#   hippocampus   ours and DynUNet on the hippocampus, MINUTES each
#   abide         two networks and linear models on ABIDE, 10 folds, 3 repeats
#
# The first two need the device alone and run one after the other; then the others run at the same time, whose sides take
# turns, so that what shares the device slows both sides of a comparison alike.
#
# With --tiny everything is as small as it can be, on the CPU unless DEVICE says otherwise: that shows that each part
# runs, and none of its figures means anything.
#
# Each part leaves its output in $OUT/PART.txt, its exit code and seconds in $OUT/parts.csv, and its numbers as JSON. A part
# that fails does not stop the others; the script then exits with 1. Nothing is read from a network.
#
# DEVICE (cuda), MINUTES (2.5) and PYTHON (.venv/bin/python, or python) can be set. What a bare machine with torch needs
# besides: `python benchmarks/gpu_packages.py`.
set -u

tiny=0
parts=()
for word in "$@"; do
  case $word in
    --tiny) tiny=1 ;;
    backbone | volume | tests | compiled | polyp | hippocampus | abide) parts+=("$word") ;;
    *)
      echo "on_gpu.sh: there is no part $word; expected some of backbone volume tests compiled polyp hippocampus abide" >&2
      exit 2
      ;;
  esac
done
[ "${#parts[@]}" -gt 0 ] || parts=(backbone volume tests compiled polyp hippocampus abide)

: "${OUT:?name a folder for the results in OUT}"
: "${MEDFORMER_DATA:?name the data folder in MEDFORMER_DATA}"
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
export MEDFORMER_DATA PYTHONPATH="$PWD"
mkdir -p "$OUT"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$OUT/parts.csv"

if [ "$tiny" -eq 1 ]; then
  DEVICE=${DEVICE:-cpu}
  MINUTES=${MINUTES:-0.1}
  speed=(--tiny --batch 1 --threads 1 --numbers fp32 bf16)
  # Where bfloat16 is emulated, MONAI's networks take many minutes for the smallest patch, and compiling takes as long.
  quick=$("$PYTHON" -c "import torch
from medformer.models.precision import bfloat16_units
print(bfloat16_units(torch.device('$DEVICE')))") || exit
  [ -n "$quick" ] && slow=() || slow=(--numbers fp32)
  frames=(data.image_size=[64,64])
  volumes=(plan.patch=[32,32,32])
  cohort=(--folds 2 --repeats 1 training.epochs=2 pretraining.epochs=2)
else
  DEVICE=${DEVICE:-cuda}
  MINUTES=${MINUTES:-2.5}
  speed=(--batch 16 --rounds 10 --numbers fp32 tf32 bf16)
  slow=()
  frames=(data.image_size=[352,352])
  volumes=()
  cohort=(--folds 10 --repeats 3)
fi
export MEDFORMER_TEST_DEVICE=$DEVICE
turn=$("$PYTHON" -c "print($MINUTES / 2)")

part() {
  local name=$1 began=$SECONDS code
  shift
  "$@" >"$OUT/$name.txt" 2>&1
  code=$?
  echo "$name,$code,$((SECONDS - began))" >>"$OUT/parts.csv"
  echo "$name: exit code $code, $((SECONDS - began)) s"
}

start() {
  case $1 in
    backbone) part backbone "$PYTHON" benchmarks/backbone_speed.py --device "$DEVICE" "${speed[@]}" --out "$OUT/backbone" ;;
    compiled) part compiled "$PYTHON" benchmarks/backbone_speed.py --device "$DEVICE" --models caformer_s18 \
      --sizes 224 "${speed[@]}" "${slow[@]}" --compile --out "$OUT/compiled" ;;
    volume) part volume "$PYTHON" benchmarks/volume_speed.py --device "$DEVICE" --side 128 "${speed[@]}" \
      --batch 1 --rounds 5 "${slow[@]}" --out "$OUT/volume" ;;
    tests) part tests "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider ;;
    polyp) part polyp "$PYTHON" benchmarks/polyp_accuracy.py --device "$DEVICE" --minutes "$MINUTES" --turn "$turn" \
      --out "$work/polyp" "${frames[@]}" && cp "$work/polyp/polyp_accuracy.json" "$OUT" 2>/dev/null ;;
    hippocampus) part hippocampus "$PYTHON" benchmarks/volume_accuracy.py --device "$DEVICE" --minutes "$MINUTES" \
      --turn "$turn" --folds 1 --out "$work/hippocampus" "${volumes[@]}" \
      && cp "$work/hippocampus/volume_accuracy.json" "$OUT" 2>/dev/null ;;
    abide) part abide "$PYTHON" benchmarks/abide_accuracy.py --part folds --only metaformer_paper --only wide_roi_metaformer \
      --out "$work/abide" "${cohort[@]}" && cp "$work/abide/abide_accuracy.json" "$OUT" 2>/dev/null ;;
  esac
}

for name in backbone volume; do
  [[ " ${parts[*]} " != *" $name "* ]] || start "$name"
done
for name in "${parts[@]}"; do
  case $name in
    backbone | volume) ;;
    *) if [ "$DEVICE" = cpu ]; then start "$name"; else start "$name" & fi ;;
  esac
done
wait
"$PYTHON" benchmarks/on_gpu_table.py "$OUT" "$DEVICE" | tee "$OUT/table.md"
! cut -d, -f2 "$OUT/parts.csv" | grep -qv '^0$'
