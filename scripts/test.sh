#!/usr/bin/env bash
# Makes or reuses the environment and runs the tests; all arguments go to pytest. --slow adds the slow tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_env.sh
install_requirements requirements-dev.txt

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=disabled OMP_NUM_THREADS=1
exec python -m pytest "$@"
