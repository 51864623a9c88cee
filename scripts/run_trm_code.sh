#!/usr/bin/env bash
# Trains an agent that writes code and tests it, with Trust Region Masking: installs what is missing, then runs the job.
#   bash scripts/run_trm_code.sh                      the experiment for this machine (code_nano without a GPU)
#   bash scripts/run_trm_code.sh seed=1 policy_loss=ppo_clip
#   bash scripts/run_trm_code.sh --help               groups, choices, examples
# Arguments are Hydra overrides. The same command resumes an interrupted run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m trm_agent.train --task code "$@"
