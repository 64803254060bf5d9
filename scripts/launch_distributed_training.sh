#!/usr/bin/env bash
# Shows the hardware, then trains; goes on with the newest sound checkpoint of the output folder when there is one.
#
#   ./scripts/launch_distributed_training.sh [--config FILE] [OPTION ...]
#
#   --config FILE   settings (default: configs/default_config.yaml); a relative path counts from where you are, else from
#                   the root of the repository
#   --resume WHICH  auto, never or a checkpoint (default here: auto)
#   --help          this text
#
# Every other option, --dry_run and --print_config too, goes to train_mimic_cxr.py as it is. It runs in the root of the
# repository: all other relative paths count from there.
#
# One process is started today, also where there are several GPUs: see docs/MULTI_GPU_TRAINING.md.
set -euo pipefail

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' scripts/launch_distributed_training.sh
}

locate() { # a configuration file as an absolute path, if it lies where the user is; otherwise as it was given
    if [[ $1 != /* && -f $here/$1 ]]; then
        printf '%s\n' "$here/$1"
    else
        printf '%s\n' "$1"
    fi
}

config=configs/default_config.yaml
options=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --config)
            if (($# < 2)); then
                echo "error: --config needs a file: give its path" >&2
                exit 2
            fi
            config=$(locate "$2")
            shift 2
            ;;
        --config=*)
            config=$(locate "${1#--config=}")
            shift
            ;;
        *)
            options+=("$1")
            shift
            ;;
    esac
done

# shellcheck source=scripts/_env.sh
source scripts/_env.sh

box=$(python -m utils.hardware_utils)
printf '%s\n' "$box"
gpus=$(awk '/^  GPUs:/ { for (i = 1; i < NF; i++) if ($(i + 1) == "x") n += $i } END { print n + 0 }' <<<"$box")
if ((gpus > 1)); then
    echo "note: one of the $gpus GPUs is used, the first that CUDA_VISIBLE_DEVICES allows: this version trains in one process"
fi

# the last --resume on a command line counts: the user's own stands behind this one
exec python train_mimic_cxr.py --config "$config" --resume auto ${options[@]+"${options[@]}"}
