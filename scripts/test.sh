#!/usr/bin/env bash
# Installs what is missing, then runs the tests.
#   bash scripts/test.sh            all tests, the end-to-end trainings included
#   bash scripts/test.sh --quick    only the quick ones (under two minutes)
# Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

selection=()
case "${1:-}" in
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  --quick) selection=(-m "not slow"); shift ;;
esac
bash scripts/setup.sh
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m pytest "${selection[@]}" "$@"
