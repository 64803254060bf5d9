#!/usr/bin/env bash
# Makes the Python environment of this repository (.venv) or brings it up to date, and says how to go on.
#
#   ./scripts/setup.sh
#
#   PYTHON=/path/to/python3.12 ./scripts/setup.sh    another interpreter, 3.11 to 3.13
#   SSGVQA_USE_CURRENT_ENV=1 ./scripts/setup.sh      installs into the venv or conda environment that is active
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
    '') ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' scripts/setup.sh
        exit 0
        ;;
    *)
        echo "error: unknown option $1: this script takes only --help" >&2
        exit 2
        ;;
esac

# shellcheck source=scripts/_env.sh
source scripts/_env.sh

echo "ready: $(python --version) in $(python -c 'import sys; print(sys.prefix)')"
echo
echo "try it on generated data, without credentials:"
echo "  ./scripts/quickstart.sh"
echo
echo "with the real data (docs/SETUP_DATA.md):"
if [[ ${SSGVQA_USE_CURRENT_ENV:-0} != 1 ]]; then
    printf '  source %q\n' "$PWD/.venv/bin/activate"
fi
cat <<'NEXT'
  export MIMIC_CXR_PATH=/path/to/mimic-cxr-jpg MIMIC_QA_PATH=/path/to/mimic-ext-cxr-qba
  python setup_data.py
  python analyze_data.py
  ./scripts/launch_distributed_training.sh --config configs/default_config.yaml
  python evaluate.py --model_path ./checkpoints/best_model --config configs/default_config.yaml
NEXT
