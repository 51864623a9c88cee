#!/usr/bin/env bash
# Evaluates checkpoints on held-out tasks: installs what is missing, then runs `trm eval`.
#   bash scripts/eval.sh                      the newest finished run under runs/ against its own start: suite nano_long,
#                                             or the tasks of its validation if its environment is not ChainMath
#   bash scripts/eval.sh runs/math_nano-seed0-001 --env chain_math --horizons 4 8 16
#   bash scripts/eval.sh --limit 3            options alone: the same with these
#   bash scripts/eval.sh --help               checkpoints, suites, examples
# Arguments are those of `trm eval`; paths are relative to the repository. The same command goes on with an interrupted
# evaluation.
set -euo pipefail
caller="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
trm="${VIRTUAL_ENV:-$PWD/.venv}/bin/trm"
if [ "$#" -gt 0 ] && ! [ "$caller" -ef . ]; then
  echo "eval.sh: paths are relative to $PWD, the repository" >&2
fi
# The parser of `trm eval` says what the arguments leave to us.
ours="$("${trm%/*}/python" - "$@" 2>/dev/null <<'PY'
import argparse
from trm_agent.commands.eval_arguments import add_arguments

parser = argparse.ArgumentParser(add_help=False)
add_arguments(parser)
given, unknown = parser.parse_known_args()
if not (given.checkpoints or given.list_suites or unknown):
    print("checkpoints" if given.suite or given.env or given.validation is not None else "checkpoints and suite")
PY
)" || ours=""
if [ -z "$ours" ]; then
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
suite=()
told=""
if [ "$ours" = "checkpoints and suite" ]; then
  if grep -qx "  id: trm/ChainMath-v0" "$newest/config.yaml"; then
    suite=(--suite nano_long)
    told=", suite nano_long"
  else
    suite=(--validation)
    told=", on the tasks of its own validation, since suite nano_long holds another environment"
  fi
fi
echo "eval.sh: $newest against its own start$told" >&2
exec "$trm" eval "before=start:$newest" "after=$newest" ${suite[@]+"${suite[@]}"} "$@"
