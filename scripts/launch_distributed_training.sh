#!/usr/bin/env bash
# Shows the hardware, plans, and trains on all GPUs; goes on with the newest sound checkpoint of the output folder.
#
#   ./scripts/launch_distributed_training.sh [--config FILE] [OPTION ...] [OPTION OF train_mimic_cxr.py ...]
#
#   --config FILE       settings (default: configs/default_config.yaml); a relative path counts from where you are, else
#                       from the root of the repository
#   --resume WHICH      auto, never or a checkpoint (default here: auto)
#   --num_gpus N        so many of this machine's GPUs (default: all); without a GPU: N processes on the CPU, for trials
#   --dry_run           print hardware, plan and command, and start nothing
#   --print_config      print every setting of the planned run with its origin, and start nothing
#   --simulate TEXT     with --dry_run: the plan for another machine, such as "4x NVIDIA L4"; --cpus N for its CPUs
#   --no_auto           no hardware advice: settings as they are written
#   --max_restarts N    start the processes again after a failure, at most so often (torchrun)
#   --debug             tracebacks, and messages of NCCL and torch.distributed
#   --help              this text
#
# Several machines, started once on each; inside srun and in Vertex AI jobs all of this is known:
#   --nnodes N          machines
#   --node_rank K       which of them this is, from 0
#   --master_addr HOST  address of node 0
#   --master_port P     a free port of node 0 (default: 29500)
#
# What starts the processes (default: torchrun, or Python itself where there is one process):
#   --torchrun          torchrun, on this node
#   --deepspeed         DeepSpeed's launcher, and deepspeed.enabled=true
#   --hostfile FILE     DeepSpeed's launcher on these hosts, started on one: lines "NAME slots=GPUS"
#
# Every other option goes to train_mimic_cxr.py as it is. It runs in the root of the repository: all other relative paths
# count from there. Exit code 75: interrupted and saved, start it again to go on. See docs/MULTI_GPU_TRAINING.md.
set -euo pipefail

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' scripts/launch_distributed_training.sh
}

locate() { # a file as an absolute path, if it lies where the user is; otherwise as it was given
    if [[ $1 != /* && -f $here/$1 ]]; then
        printf '%s\n' "$here/$1"
    else
        printf '%s\n' "$1"
    fi
}

options=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --config | --hostfile)
            if (($# < 2)); then
                echo "error: $1 needs a file: give its path" >&2
                exit 2
            fi
            options+=("$1" "$(locate "$2")")
            shift 2
            ;;
        --config=* | --hostfile=*)
            options+=("${1%%=*}" "$(locate "${1#*=}")")
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

exec python -m scripts.launch ${options[@]+"${options[@]}"}
