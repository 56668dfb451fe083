# shellcheck shell=bash
# Shared by the launchers of this folder: what they run, and on how many GPUs. To be sourced, under bash.
#
# They install nothing: machines of a cluster share one environment, or have no network. What is run is that of .venv in
# the repository root (or the folder DYCOKE_VENV names) if there is one, and of PATH otherwise.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

misuse() {
    echo "error: $*; see --help" >&2
    exit 2
}

# show_help SCRIPT: print the comment at its top.
show_help() {
    sed -n '2,/^[^#]/{s/^# //p;s/^#$//p}' "$1"
}

# use_environment COMMAND...: put the environment's programs first on PATH, and check that these commands are there.
use_environment() {
    local venv=${DYCOKE_VENV:-$ROOT/.venv} name
    if [[ -d $venv/bin ]]; then
        PATH=$venv/bin:$PATH
    fi
    for name in "$@"; do
        command -v "$name" >/dev/null ||
            fail "no $name on PATH; activate an environment with dycoke in it, or make one with scripts/quickstart.sh"
    done
}

# check_count NAME VALUE LOWEST: an integer of at least LOWEST.
check_count() {
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || (($2 < $3)); then
        misuse "$1 '$2': expected an integer of at least $3"
    fi
}

# count_gpus GIVEN: print the number given, or that of the GPUs this process may use.
count_gpus() {
    local count=$1
    if [[ -n $count ]]; then
        check_count --gpus "$count" 1
    else
        count=$(python3 -c 'import torch; print(torch.cuda.device_count())') || fail "cannot count the GPUs; give --gpus"
        [[ $count != 0 ]] || fail "no usable GPU on this machine; on a CPU, use dycoke sweep itself"
    fi
    echo "$count"
}

# check_target TARGET...: an experiment file, or -- and arguments of lmms-eval.
check_target() {
    (($# > 0)) || misuse "expected an experiment file, or -- and arguments of lmms-eval"
    if [[ $1 == -- ]]; then
        (($# > 1)) || misuse "expected arguments of lmms-eval after --"
    elif [[ ! -f $1 ]]; then
        misuse "no experiment file $1"
    fi
}
