#!/usr/bin/env bash
# Trains a tool-using agent with Trust Region Masking on ChainMath: installs what is missing, then runs the main job.
#   bash scripts/run_trm_math.sh                      the experiment for this machine (math_nano without a GPU)
#   bash scripts/run_trm_math.sh seed=1 policy_loss=ppo_clip
#   bash scripts/run_trm_math.sh --help               groups, choices, examples
# Arguments are Hydra overrides. The same command resumes an interrupted run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m trm_agent.train "$@"
