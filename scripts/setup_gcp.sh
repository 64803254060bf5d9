#!/usr/bin/env bash
# Prepares a Google Cloud VM with GPUs for training; run it on the VM, Debian or Ubuntu, such as g2-standard-48 with 4 x L4.
#
#   ./scripts/setup_gcp.sh [OPTION ...]
#
#   --data_dir DIR   where the data sets go (default: ~/dataset)
#   --venv           a Python environment in .venv instead of conda's mimic-vqa
#   --yes            ask nothing: keys that are not in the environment are left out
#   --dry_run        print every command and change nothing
#   --only A,B       these steps only, of: tools, driver, environment, folders, secrets
#   --redo           finished steps too
#   --help           this text
#
# Steps: build tools and NVIDIA driver (these two use sudo), Python environment, data folders, keys. A finished step leaves a
# stamp in ~/.ssgvqa-setup/ and is skipped next time; when the driver restarts the machine, run this again.
#
# WANDB_API_KEY, HF_TOKEN and PHYSIONET_USER are asked for without being shown, and go to ~/.env, which only you can read;
# what stands there already is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all_steps=(tools driver environment folders secrets)
names=(WANDB_API_KEY HF_TOKEN PHYSIONET_USER)
stamps=$HOME/.ssgvqa-setup
env_file=$HOME/.env
conda_dir=$HOME/miniforge3
data_dir=$HOME/dataset
steps=("${all_steps[@]}")
dry_run=0 ask=1 redo=0 venv=0

fail() {
    echo "error: $*" >&2
    exit 2
}

usage() {
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' scripts/setup_gcp.sh
}

run() { # a command that changes something; no secret may stand in one
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    ((dry_run)) || "$@"
}

as_root() {
    if ((EUID == 0)); then run "$@"; else run sudo "$@"; fi
}

download() { # URL, file
    run curl --fail --silent --show-error --location --proto '=https' --retry 3 --output "$2" "$1"
}

# Steps

tools() {
    command -v apt-get >/dev/null || ((dry_run)) || fail "apt-get is missing: on another system than Debian or Ubuntu \
install build-essential, curl, git, ninja-build, python3-venv, tmux, unzip and wget, then use --only driver,environment,folders,secrets"
    as_root apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y \
        build-essential ca-certificates curl git ninja-build python3 python3-venv tmux unzip wget
}

driver() { # Google's installer, see https://cloud.google.com/compute/docs/gpus/install-drivers-gpu
    if nvidia-smi >/dev/null 2>&1; then
        echo "the NVIDIA driver works"
        return
    fi
    download https://storage.googleapis.com/compute-gpu-installation-us/installer/latest/cuda_installer.pyz \
        "$stamps/cuda_installer.pyz"
    echo "the installer may restart the machine: then run this script again"
    as_root python3 "$stamps/cuda_installer.pyz" install_driver
    ((dry_run)) || nvidia-smi >/dev/null 2>&1 ||
        fail "the driver does not answer yet: restart the machine (sudo reboot) and run this script again"
}

environment() {
    if ((venv)); then
        run ./scripts/setup.sh
        return
    fi
    local conda action=create
    conda=$(find_conda) || install_conda
    conda=${conda:-$conda_dir/bin/conda}
    if [[ -x $conda ]] && "$conda" env list | grep -Eq '^mimic-vqa[[:space:]]'; then
        action=update
    fi
    run "$conda" env "$action" --name mimic-vqa --file environment.yml
}

find_conda() {
    if [[ -x $conda_dir/bin/conda ]]; then echo "$conda_dir/bin/conda"; else command -v conda; fi
}

install_conda() {
    local installer
    installer=Miniforge3-Linux-$(uname -m).sh
    local url=https://github.com/conda-forge/miniforge/releases/latest/download/$installer
    download "$url" "$stamps/$installer"
    download "$url.sha256" "$stamps/$installer.sha256"
    run env --chdir="$stamps" sha256sum --check "$installer.sha256"
    run bash "$stamps/$installer" -b -p "$conda_dir"
}

folders() {
    run mkdir -p -m 700 "$data_dir/mimic-cxr-jpg" "$data_dir/mimic-ext-cxr-qba"
    remember MIMIC_CXR_PATH "${MIMIC_CXR_PATH:-$data_dir/mimic-cxr-jpg}"
    remember MIMIC_QA_PATH "${MIMIC_QA_PATH:-$data_dir/mimic-ext-cxr-qba}"
}

secrets() {
    local name value
    [[ ! -f $env_file ]] || run chmod 600 "$env_file"
    for name in "${names[@]}"; do
        if known "$name"; then
            echo "$name: kept as it is in $env_file"
            continue
        fi
        value=${!name:-}
        if [[ -z $value ]] && ((ask && !dry_run)); then
            [[ ! -t 0 ]] || printf '%s (not shown; nothing: leave it out): ' "$name" >&2
            IFS= read -rs value || true
            [[ ! -t 0 ]] || echo >&2
        fi
        remember "$name" "${value%$'\r'}"
    done
}

# ~/.env

known() { # whether ~/.env has a value for this name
    [[ -f $env_file ]] && grep -Eq "^[[:space:]]*(export[[:space:]]+)?$1=." "$env_file"
}

remember() { # name, value; only builtins see the value, so that it stands in no list of processes
    local quote="'\\''"
    if known "$1"; then
        echo "$1: kept as it is in $env_file"
    elif ((dry_run)); then
        echo "+ (add $1 to $env_file, mode 600)"
    elif [[ -z $2 ]]; then
        echo "$1: left out"
    elif [[ $2 == *[[:cntrl:]]* ]]; then
        fail "$1: a key has no control characters: run this again and paste it once more"
    else
        (umask 077 && : >>"$env_file")
        chmod 600 "$env_file"
        [[ -z $(tail -c 1 "$env_file") ]] || echo >>"$env_file"
        printf "export %s='%s'\n" "$1" "${2//\'/"$quote"}" >>"$env_file"
        echo "$1: written to $env_file"
    fi
}

# All together

step() {
    local stamp=$stamps/$1 settings="data_dir=$data_dir venv=$venv"
    if ((!redo)) && [[ -f $stamp && $(cat "$stamp") == "$settings" ]]; then
        echo "== $1: done before (--redo does it again)"
        return
    fi
    echo "== $1"
    "$1"
    if ((!dry_run)) && { [[ $1 != secrets ]] || complete; }; then
        printf '%s\n' "$settings" >"$stamp"
    fi
}

complete() { # whoever was asked has answered; without asking, a missing key may follow
    local name
    ((!ask)) || return 0
    for name in "${names[@]}"; do known "$name" || return 1; done
}

next_commands() {
    local activate conda base=$conda_dir
    if ((venv)); then
        printf -v activate 'source %q' "$PWD/.venv/bin/activate"
    else
        if conda=$(find_conda); then base=$("$conda" info --base); fi
        printf -v activate 'source %q mimic-vqa' "$base/bin/activate"
        activate+=' && export SSGVQA_USE_CURRENT_ENV=1'
    fi
    cat <<NEXT

next, in a terminal that outlives the connection (tmux):
  cd $(printf '%q' "$PWD")
  source ~/.env
  $activate
  # both data sets by their download pages (docs/SETUP_DATA.md) to \$MIMIC_CXR_PATH and \$MIMIC_QA_PATH
  python setup_data.py
  python analyze_data.py
  ./scripts/launch_distributed_training.sh --dry_run
  ./scripts/launch_distributed_training.sh --config configs/default_config.yaml
NEXT
}

while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --data_dir | --only)
            (($# > 1)) || fail "$1 needs a value: see --help"
            if [[ $1 == --only ]]; then IFS=, read -ra steps <<<"$2"; else data_dir=$(realpath -ms -- "$2"); fi
            shift
            ;;
        --venv) venv=1 ;;
        --yes) ask=0 ;;
        --dry_run) dry_run=1 ;;
        --redo) redo=1 ;;
        *) fail "unknown option $1: see --help" ;;
    esac
    shift
done

for name in "${steps[@]}"; do
    [[ " ${all_steps[*]} " == *" $name "* ]] || fail "--only $name: the steps are ${all_steps[*]}"
done
((dry_run)) || mkdir -p "$stamps"
for name in "${steps[@]}"; do step "$name"; done
((!dry_run)) || echo "dry run: nothing was changed"
next_commands
