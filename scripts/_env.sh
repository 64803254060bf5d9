# shellcheck shell=bash
# Sourced by the other scripts, from the root of the repository: a Python environment in .venv with requirements.txt.
#
#   source scripts/_env.sh                    makes or reuses .venv; afterwards `python` is its interpreter
#   install_requirements FILE                 installs FILE once: a stamp with the hash of the list makes the next call instant
#
# SSGVQA_USE_CURRENT_ENV=1 uses the environment that is active now (venv or conda) instead of .venv.
# PYTHON=/path/to/python chooses the interpreter that makes .venv.

_supported='import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

_fail() {
    echo "error: $*" >&2
    exit 2
}

_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
        if "$candidate" -c "$_supported" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    _fail "no Python 3.11, 3.12 or 3.13 found (python3 is $(python3 --version 2>/dev/null || echo missing)): install one, or set PYTHON=/path/to/python3.11"
}

_make_environment() {
    local python
    python="$(_find_python)" || exit 2
    echo "making the environment .venv with $("$python" --version)" >&2
    "$python" -m venv .venv >&2 || {
        rm -rf .venv
        _fail "$python cannot make a virtual environment: install its venv module (Debian and Ubuntu: apt install python3-venv)"
    }
}

_use_environment() {
    if [ "${SSGVQA_USE_CURRENT_ENV:-0}" = 1 ]; then
        _environment="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
        [ -n "$_environment" ] || _fail "SSGVQA_USE_CURRENT_ENV=1 but no environment is active: activate one, or unset it to use .venv"
    else
        [ -e .venv/bin/python ] || _make_environment
        _environment="$PWD/.venv"
        export VIRTUAL_ENV="$_environment"
        export PATH="$_environment/bin:$PATH"
        unset PYTHONHOME
    fi
    python -c "$_supported" 2>/dev/null ||
        _fail "the Python of $_environment does not start or is not 3.11 to 3.13: remove that environment and run this again"
}

install_requirements() {
    local list="$1" stamp="$_environment/.installed-$1" constraints=() hash
    [ -f constraints.txt ] && constraints=(-c constraints.txt)
    hash="$(cat "$list" ${constraints[1]:+"${constraints[1]}"} | python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ]; then
        return
    fi
    echo "installing $list into $_environment (the first time: some minutes, some gigabytes)" >&2
    python -m pip install --quiet --disable-pip-version-check -r "$list" ${constraints[@]+"${constraints[@]}"} >&2 ||
        _fail "pip could not install $list: see its message above; the next run tries again"
    echo "$hash" >"$stamp"
}

_use_environment
install_requirements requirements.txt
