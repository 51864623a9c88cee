#!/usr/bin/env bash
# Evaluates checkpoints on held-out tasks: installs what is missing, then runs `trm eval`.
#   bash scripts/eval.sh                      the newest finished run under runs/ against its own start, suite nano_long
#   bash scripts/eval.sh runs/math_nano-seed0-001 --env chain_math --horizons 4 8 16
#   bash scripts/eval.sh --help               checkpoints, suites, examples
# Arguments are those of `trm eval`. The same command goes on with an interrupted evaluation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
trm="${VIRTUAL_ENV:-$PWD/.venv}/bin/trm"
if [ "$#" -gt 0 ]; then
  exec "$trm" eval "$@"
fi

newest=""
for summary in runs/*/summary.json; do
  run="$(dirname "$summary")"
  # an evaluation has a summary too, and no checkpoints
  if [ -d "$run/checkpoints" ] && { [ -z "$newest" ] || [ "$summary" -nt "$newest/summary.json" ]; }; then
    newest="$run"
  fi
done
if [ -z "$newest" ]; then
  echo "eval.sh: no finished run under runs/: train one with bash scripts/run_trm_math.sh, or name a checkpoint;" \
    "see bash scripts/eval.sh --help" >&2
  exit 2
fi
echo "eval.sh: $newest against its own start, suite nano_long, 5 samples"
exec "$trm" eval "before=start:$newest" "after=$newest" --suite nano_long --samples 5
