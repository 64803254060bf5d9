#!/usr/bin/env bash
# The evidence page: ask a trained model about a film and see what the answer rests on. For this machine alone.
#
#   ./scripts/page.sh [--port N ...]     the quickstart's model and its look-alike release
#   ./scripts/page.sh --model DIR ...    anything else; options: python examples/app.py --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=quickstart
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' scripts/page.sh
    exit 0
fi
if [[ " $*" != *" --model"* ]]; then
    if [[ ! -d $folder/checkpoints/best_model ]]; then
        echo "error: no model in $folder/: run ./scripts/quickstart.sh first, or name one: ./scripts/page.sh --model DIR" >&2
        exit 2
    fi
    set -- --model "$folder/checkpoints/best_model" --index "$folder/index" --release "$folder/release" "$@"
fi

# shellcheck source=scripts/_env.sh
source scripts/_env.sh
install_requirements requirements-page.txt
exec python examples/app.py "$@"
