#!/usr/bin/env bash
# The proof on a GPU: forward, loss and gradients against the CPU, training in half precision, the training step beside PyTorch's,
# NCCL, pruning and calibration. Ends within eight minutes with a table; all numbers are in $OUT/gpu.json, all messages in $OUT/log.txt.
#
#     cargo xtask gpu-pack && bash xtask/gpu/check.sh
#
# Needs what gpu-pack collected (.gpu), python3 with PyTorch >= 2.11 and numpy, and a C++ compiler. Of the environment it reads
#     PARTS=a,c     only these, after the first start (0; a: forward and gradients, b: BCCD, c: step beside PyTorch, d: TPH and Swin, e: NCCL,
#                   f: pruning and calibration, g: kernels, h: a training that fills the card, n: every metric, distiller and way to quantize,
#                   t: torch.compile's max-autotune)
#     DEVICE=0      the card, or `cpu`; TINY=1 shrinks everything, to try the check itself
#     OUT=FOLDER    results; PYTHON=python3; YOLO_TORCH=FOLDER the PyTorch that the program uses (that of PYTHON); LIMIT=470 seconds
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
export GPU_PACK=${GPU_PACK:-$PWD/.gpu} DEVICE=${DEVICE:-0} TINY=${TINY:-}
OUT=${OUT:-$GPU_PACK/out}
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-470}
export GPU_WORK=$GPU_PACK/work
# A copy may have lost the right to be run.
chmod +x "$GPU_PACK/yolo" 2>/dev/null
[ -x "$GPU_PACK/yolo" ] || { echo "check.sh: $GPU_PACK/yolo is missing: run \`cargo xtask gpu-pack\` first" >&2; exit 2; }
rm -rf "$GPU_WORK"
mkdir -p "$OUT" "$GPU_WORK" || exit 1
: >"$OUT/log.txt"

if [ -z "${YOLO_TORCH:-}" ]; then
    YOLO_TORCH=$("$PYTHON" -c "import importlib.util, os; print(os.path.dirname(importlib.util.find_spec('torch').origin))") || {
        echo "check.sh: $PYTHON has no PyTorch: set PYTHON to one that has" >&2
        exit 2
    }
fi
export YOLO_TORCH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD/xtask/gpu

# Part, and the seconds that it may take. The order is that of importance: what does not fit is left out at the end.
plan="0:150 g:40 c:220 d:90 e:45 h:90 a:100 b:100 f:100 n:120 t:300"
# The first start compiles: its time shall be no other part's.
wanted=",0,${PARTS:-a,b,c,d,e,f,g,h,n,t},"
failed=0
for entry in $plan; do
    name=${entry%%:*}
    case $wanted in *",$name,"*) ;; *) continue ;; esac
    limit=${entry##*:}
    remaining=$((LIMIT - SECONDS))
    [ "$limit" -le "$remaining" ] || limit=$remaining
    if [ "$limit" -lt 15 ]; then
        echo "left out: no time" >"$GPU_WORK/$name.status"
        continue
    fi
    printf '[%s] at %d s\n' "$name" "$SECONDS"
    PART_LIMIT=$limit timeout --kill-after=5 "$limit" "$PYTHON" xtask/gpu/parts.py "$name" >"$GPU_WORK/$name.out" 2>"$GPU_WORK/$name.log"
    code=$?
    case $code in
        0) echo "passed" ;;
        124 | 137) echo "failed: stopped after $limit s" ;;
        *) echo "failed" ;;
    esac >"$GPU_WORK/$name.status"
    { echo "##### part $name: exit $code"; cat "$GPU_WORK/$name.out" "$GPU_WORK/$name.log"; } >>"$OUT/log.txt"
    if [ "$code" -ne 0 ]; then
        failed=1
        # Failures that a part reports itself stand in the table.
        [ "$code" -eq 1 ] || tail -n 8 "$GPU_WORK/$name.log" | cut -c 1-300
    fi
    "$PYTHON" xtask/gpu/summary.py "$GPU_WORK" "$OUT"
done
"$PYTHON" xtask/gpu/summary.py "$GPU_WORK" "$OUT" --print
echo "numbers: $OUT/gpu.json, messages: $OUT/log.txt, $SECONDS s"
exit "$failed"
