#!/usr/bin/env bash
# Installs what is missing, then runs the tests.
#   bash scripts/test.sh            all tests, then the end-to-end trainings, each on two processes
#   bash scripts/test.sh --quick    only the quick ones (under two minutes)
#   bash scripts/test.sh ARGS       pytest with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
bash scripts/setup.sh
pytest=("${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m pytest)
if [ $# -gt 0 ] && [ "$1" != --quick ]; then
  exec "${pytest[@]}" "$@"
fi
# Hundreds of processes import the same files: compiled once, also where a container's settings say otherwise.
unset PYTHONDONTWRITEBYTECODE
# One thread a process: the tests' tensors are small, and two pools of threads on two cores wait for each other.
on_two_processes() { OMP_NUM_THREADS=1 "${pytest[@]}" -n 2 --dist worksteal --ignore=tests/end_to_end "$@"; }
if [ "${1:-}" = --quick ]; then
  on_two_processes -m "not slow"
else
  source scripts/apt.sh
  apt_install chromium chromium "the test that opens a report's page needs a browser"
  on_two_processes
  # A training is Ray, a trainer and a rollout server, 6 GiB, and has one core at work while it starts: two at a time.
  "${pytest[@]}" -n 2 --dist worksteal tests/end_to_end
fi
