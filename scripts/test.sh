#!/usr/bin/env bash
# Makes or reuses the environment and runs the tests.
#
#   ./scripts/test.sh                  the default ones
#   ./scripts/test.sh --slow           all of them
#   ./scripts/test.sh ARGUMENT ...     anything else goes to pytest as it is
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/_env.sh
for list in dev page export; do
    install_requirements "requirements-$list.txt"
done

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=disabled OMP_NUM_THREADS=1
for argument in "$@"; do
    [ "$argument" = --slow ] || exec python -m pytest "$@"
done

# Two at a time, but for those that start processes themselves and count the seconds until these leave.
status=0
python -m pytest "$@" -n 2 --dist loadfile --ignore tests/fault || status=$?
python -m pytest "$@" tests/fault || status=$?
exit "$status"
