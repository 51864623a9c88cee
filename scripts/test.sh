#!/usr/bin/env bash
# Installs what is missing, then runs the tests.
#   bash scripts/test.sh            all tests but the long ones: on two processes, those marked `alone` on one, then the trainings on two
#   bash scripts/test.sh --quick    only the quick ones (three minutes on two cores)
#   bash scripts/test.sh --long     those marked `long`, on one process (eight trainings, minutes each); options of pytest may follow
#   bash scripts/test.sh ARGS       pytest with these arguments
# TRM_BESIDE is the process id of what else is at work here: the tests marked `alone` wait for its end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
bash scripts/setup.sh
pytest=("${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m pytest)
# Only the files with a mark are collected, for the whole takes half a minute.
files_with() { mapfile -t files < <(grep -rl --include='test_*.py' "mark\.$1" tests); }
case "${1:-}" in
  --long)
    files_with long
    exec "${pytest[@]}" "${files[@]}" -m long "${@:2}"
    ;;
  --quick | "") ;;
  *) exec "${pytest[@]}" "$@" ;;
esac
# Hundreds of processes import the same files: compiled once, also where a container's settings say otherwise.
unset PYTHONDONTWRITEBYTECODE
# One thread a process: the tests' tensors are small, and two pools of threads on two cores wait for each other.
on_two_processes() { OMP_NUM_THREADS=1 "${pytest[@]}" -n 2 --dist worksteal --ignore=tests/end_to_end -m "$1"; }
# 5 says that none of their tests is asked for.
alone() {
  [ -z "${TRM_BESIDE:-}" ] || tail --pid="$TRM_BESIDE" -f /dev/null
  files_with alone
  OMP_NUM_THREADS=1 "${pytest[@]}" "${files[@]}" -m "$1" || [ $? -eq 5 ]
}
if [ "${1:-}" = --quick ]; then
  on_two_processes "not slow and not alone"
  alone "not slow and alone"
else
  source scripts/apt.sh
  apt_install chromium chromium "the test that opens a report's page needs a browser"
  on_two_processes "not alone"
  alone "alone"
  # A training is Ray, a trainer and a rollout server, 6 GiB, and has one core at work while it starts: two at a time.
  "${pytest[@]}" -n 2 --dist worksteal tests/end_to_end -m "not alone"
fi
