#!/usr/bin/env bash
# From nothing to an evaluated model on generated look-alike data: no credentials, no GPU, no network but for the installation.
# Finished stages are reused; delete the folder quickstart/ to start over.
#   ./scripts/quickstart.sh            QUICKSTART_STUDIES=400 ./scripts/quickstart.sh   for a smaller release
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/_env.sh
source scripts/_env.sh

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
folder=quickstart
studies=${QUICKSTART_STUDIES:-1000}
export MIMIC_CXR_PATH=$folder/release/mimic-cxr-jpg MIMIC_QA_PATH=$folder/release/mimic-ext-cxr-qba
settings=(--config configs/tiny_config.yaml --set "data.index_dir=$folder/index")
mkdir -p "$folder"

stage() { # title, file that proves the stage is done, command...
  local title=$1 proof=$2 begin=$SECONDS
  shift 2
  if [[ -e $proof ]]; then
    echo "== $title: reused ($proof)"
    return
  fi
  echo "== $title"
  "$@"
  echo "== $title: $((SECONDS - begin)) s"
}

begin=$SECONDS
stage "1/5 look-alike release" "$folder/release/mimic-ext-cxr-qba/metadata/dataset_info.json" \
  python setup_data.py --synthetic "$folder/release" --studies "$studies" --seed 0
stage "2/5 index and images" "$folder/index/index.json" python setup_data.py "${settings[@]}"
stage "3/5 check" "$folder/analysis/analysis_report.json" \
  python analyze_data.py "${settings[@]}" --output_dir "$folder/analysis"
stage "4/5 training" "$folder/checkpoints/best_model/question_only" \
  python train_mimic_cxr.py "${settings[@]}" --output_dir "$folder/checkpoints" --resume auto
stage "5/5 evaluation" "$folder/results/report.json" \
  python evaluate.py --model_path "$folder/checkpoints/best_model" "${settings[@]}" --output_dir "$folder/results"
echo
python -c '
import json, sys
from training.markdown import headline_lines
print("\n".join(headline_lines(json.load(open(sys.argv[1])))))
' "$folder/results/report.json"
echo
echo "done in $((SECONDS - begin)) s without the installation. Generated data: these numbers have no clinical meaning."
echo "report: $folder/results/report.html"
echo "the data: $folder/analysis/analysis_report.html"
echo "the other programs of README.md: source ${_environment#"$PWD/"}/bin/activate, with $folder/checkpoints/best_model as the model"
echo "ask the model in a browser, on this machine alone: ./scripts/page.sh"
