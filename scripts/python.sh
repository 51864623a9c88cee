# Sourced by the other scripts: the Python of this repository's environment, or a word on what is wrong with it.
PYTHONS=(3.12 3.11 3.10)

# python_needed: the versions in words. setup.sh leaves one for the set with CUDA, whose lock is for that one.
python_needed() {
  if [ ${#PYTHONS[@]} = 1 ]; then
    echo "Python ${PYTHONS[0]} (for the set with CUDA)"
  else
    echo "Python ${PYTHONS[-1]} to ${PYTHONS[0]}"
  fi
}

# is_suitable PYTHON
is_suitable() {
  "$1" -c 'import sys; sys.exit("{}.{}".format(*sys.version_info) not in sys.argv[1:])' "${PYTHONS[@]}" >/dev/null 2>&1
}

# suitable_python: the first Python on the path of a version that works here, python3 before others.
suitable_python() {
  local name
  for name in python3 "${PYTHONS[@]/#/python}"; do
    if is_suitable "$name"; then
      command -v "$name"
      return
    fi
  done
  echo "setup: $(python_needed) is needed, and python3 is ${1:-$(python3 -V 2>/dev/null || echo "not there")};" \
    "install one (for example: sudo apt-get install python3.12 python3.12-venv), or activate an environment that has it" >&2
  return 2
}

# make_environment: .venv, unless a good one is there. One that is no good stays where it is: it may hold somebody's packages.
make_environment() {
  local python
  if [ -e .venv ] || [ -L .venv ]; then
    if is_suitable .venv/bin/python && .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
      return
    fi
    local found
    if found="$(.venv/bin/python -V 2>/dev/null)"; then
      is_suitable .venv/bin/python && found="$found without pip"
    else
      found="no Python that starts"
    fi
    suitable_python >/dev/null || return 2
    echo "setup: $PWD/.venv holds $found, and $(python_needed) with pip is needed; make it anew with:" \
      "rm -rf $PWD/.venv && bash scripts/setup.sh" >&2
    return 2
  fi
  python="$(suitable_python)" || return 2
  echo "setup: making a virtual environment in .venv with $python"
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "setup: $python -m venv failed, see above; on Debian and Ubuntu it needs: sudo apt-get install python3-venv" >&2
    return 2
  fi
}

# check_active: the environment that is active.
check_active() {
  if ! is_suitable "$VIRTUAL_ENV/bin/python"; then
    echo "setup: $(python_needed) is needed, and the active environment $VIRTUAL_ENV holds" \
      "$("$VIRTUAL_ENV/bin/python" -V 2>/dev/null || echo "no Python that starts"); leave it with: deactivate" >&2
    return 2
  fi
  if ! "$VIRTUAL_ENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
    echo "setup: the active environment $VIRTUAL_ENV has no pip; add it with: $VIRTUAL_ENV/bin/python -m ensurepip" >&2
    return 2
  fi
}

# say_how_to_activate: for commands such as trm in the same terminal; nothing where an environment is active.
say_how_to_activate() {
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    echo "setup: ready; for trm and python in this terminal: source $PWD/.venv/bin/activate"
  fi
}
