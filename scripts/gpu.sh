# Sourced by setup.sh: which set of packages this machine takes, and what its GPUs lack for the one with CUDA.

# torch 2.11 and vLLM 0.24 are on the package index in one build each, for CUDA 13.0. NVIDIA's "CUDA Compatibility" asks for a
# driver of branch 580 for CUDA 13.x, and the release notes of CUDA 13.0 name 580.65.06 as the first of it for Linux.
LEAST_DRIVER=580.65.06
# Ampere: bfloat16, and the kernels of torch.nn.attention.varlen
LEAST_CAPABILITY=8.0
# Computed, not measured, for math_nano: 2 GiB of CUDA contexts and graphs (trainer, engine), 2 GiB of the buffer in which verl hands
# weights over; a card of 4 GB is too small, one of 6 GB is not.
LEAST_MIB=5000
# llguidance, of vLLM, has no wheel for an older C library (Ubuntu 20.04, Debian 11, RHEL 9 have one as new)
LEAST_GLIBC=2.31
# in which a driver answers that is not hung; one without persistence mode wakes eight GPUs in some ten seconds
NVIDIA_SMI_S=60

# choose_set [INSTALLED]: sets `set_name`, cpu or gpu, and `reason`; fails with what to do where GPUs are there and none suits.
# INSTALLED is the set that the environment holds: it stays while GPUs are only hidden from one command.
choose_set() {
  local instead="or take the set without CUDA: TRM_HARDWARE=cpu bash scripts/setup.sh"
  case "${TRM_HARDWARE:-}" in
    "") ;;
    cpu) set_name=cpu reason="TRM_HARDWARE is set"; return ;;
    gpu)
      set_name=gpu reason="TRM_HARDWARE is set"
      find_gpus
      [ -z "$fault" ] || echo "setup: installing the set with CUDA all the same, for TRM_HARDWARE=gpu is set: $fault" >&2
      return
      ;;
    *) echo "setup: TRM_HARDWARE=$TRM_HARDWARE: allowed are cpu and gpu" >&2; return 2 ;;
  esac
  if ! command -v nvidia-smi >/dev/null; then
    set_name=cpu reason="no NVIDIA GPU found: there is no nvidia-smi, which NVIDIA's driver brings"
    return
  fi
  find_gpus
  if [ -n "$hidden" ]; then
    set_name="${1:-cpu}" reason="CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES hides every GPU"
  elif [ -n "$fault" ]; then
    echo "setup: $fault; $instead" >&2
    return 2
  else
    set_name=gpu reason="nvidia-smi lists $gpus"
  fi
}

# find_gpus: sets `gpus`, those that suit; `fault`, why none does; `hidden`, not empty where CUDA_VISIBLE_DEVICES leaves none.
find_gpus() {
  local fields=index,uuid,driver_version,compute_cap,memory.total,name glibc listed driver seen="" lacking=""
  glibc="$(getconf GNU_LIBC_VERSION 2>/dev/null || true)" glibc="${glibc#glibc }"
  gpus="" fault="" hidden=""
  if [ "$(uname -m)" != x86_64 ]; then
    fault="the processor is $(uname -m), and the set with CUDA is for x86_64"
  elif ! [[ "$glibc" =~ ^[0-9.]+$ ]] || is_less "$glibc" "$LEAST_GLIBC"; then
    fault="the C library is glibc ${glibc:-of an unknown version}, and the set with CUDA needs $LEAST_GLIBC or newer"
  elif ! command -v nvidia-smi >/dev/null; then
    fault="there is no nvidia-smi, which NVIDIA's driver brings; install driver $LEAST_DRIVER or newer"
  elif ! driver="$(ask_nvidia_smi --query-gpu=driver_version --format=csv,noheader)" || [[ "$driver" != [0-9]* ]]; then
    fault="nvidia-smi reaches no GPU (${driver%%$'\n'*}); install NVIDIA's driver $LEAST_DRIVER or newer, and restart"
  elif driver="${driver%%$'\n'*}" && is_less "$driver" "$LEAST_DRIVER"; then
    fault="NVIDIA's driver is $driver, and torch and vLLM, built for CUDA 13.0, need $LEAST_DRIVER or newer; install one"
  elif ! listed="$(ask_nvidia_smi "--query-gpu=$fields" --format=csv,noheader,nounits)"; then
    fault="nvidia-smi does not list GPUs (${listed%%$'\n'*})"
  fi
  [ -z "$fault" ] || return 0

  local index capability mib name lack visible
  find_visible "$listed"
  while IFS=, read -r index _ _ capability mib name; do
    index="${index// /}" capability="${capability// /}" mib="${mib// /}" name="${name# }"
    [[ "$visible" == *" $index "* ]] || continue
    seen=yes lack=""
    if ! [[ "$capability" =~ ^[0-9.]+$ ]] || is_less "$capability" "$LEAST_CAPABILITY"; then
      lack="compute capability $capability, and $LEAST_CAPABILITY or newer is needed (Ampere and later)"
    elif ! [[ "$mib" =~ ^[0-9]+$ ]] || ((mib < LEAST_MIB)); then
      lack="$mib MiB of memory, and the smallest experiment, math_nano, needs $LEAST_MIB"
    fi
    if [ -n "$lack" ]; then
      lacking+="${lacking:+; }GPU $index, $name, has $lack"
    else
      gpus+="${gpus:+, }GPU $index ($name, $mib MiB)"
    fi
  done <<<"$listed"
  if [ -z "$seen" ]; then
    hidden=yes fault="CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES hides every GPU"
  elif [ -z "$gpus" ]; then
    fault="$lacking"
  elif [ -n "$lacking" ]; then
    echo "setup: $lacking; leave it out of runs with CUDA_VISIBLE_DEVICES" >&2
  fi
}

# ask_nvidia_smi ARGUMENT...: its answer or its complaint. A driver that hangs would hold the setup for ever.
ask_nvidia_smi() {
  local status=0
  timeout --kill-after=2 "$NVIDIA_SMI_S" nvidia-smi "$@" 2>&1 || status=$?
  ((status != 124 && status != 137)) || echo "no answer within $NVIDIA_SMI_S s"
  return $status
}

# find_visible LISTED: sets `visible`, the indices that CUDA_VISIBLE_DEVICES shows of nvidia-smi's lines, each between spaces. CUDA
# reads the variable up to the first entry that names no device, or one a second time (runs/planning/machine.py reads it alike).
find_visible() {
  local entry entries index uuid named
  visible=" "
  entries=("*")
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then IFS=, read -ra entries <<<"$CUDA_VISIBLE_DEVICES"; fi
  for entry in "${entries[@]}"; do
    entry="${entry// /}" named=""
    while IFS=, read -r index uuid _; do
      index="${index// /}" uuid="${uuid// /}"
      case "$entry" in
        "*" | MIG-*) visible+="$index " ;;  # which GPU holds a slice is not asked
        GPU-*) if [[ -z "$named" && "$uuid" == "$entry"* ]]; then named="$index"; fi ;;
        "" | *[!0-9]*) return 0 ;;
        *) if ((10#$entry == 10#$index)); then named="$index"; fi ;;
      esac
    done <<<"$1"
    if [[ -z "$named" || "$visible" == *" $named "* ]]; then return 0; fi
    visible+="$named "
  done
}

# is_less A B: versions of digits and dots.
is_less() {
  local ours theirs i
  IFS=. read -ra ours <<<"$1"
  IFS=. read -ra theirs <<<"$2"
  for i in "${!theirs[@]}"; do
    # 10#: a part such as 06 is decimal
    ((10#${ours[i]:-0} == 10#${theirs[i]})) || { ((10#${ours[i]:-0} < 10#${theirs[i]})); return; }
  done
  return 1
}

# find_compiler PYTHON: Triton, by which torch and vLLM write kernels, compiles a few lines of C when a run starts.
find_compiler() {
  local purpose="Triton compiles the launchers of its GPU kernels with it when a run starts" headers
  [ -n "${CC:-}" ] || command -v clang >/dev/null || apt_install gcc gcc "$purpose"
  headers="$("$1" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
  [ -f "$headers/Python.h" ] ||
    echo "setup: $headers/Python.h is missing: $purpose; install it with: sudo apt-get install python3.12-dev" >&2
}
