# Shared by the scripts of this folder: the Python environment they run in. To be sourced, under bash.
#
# The environment is .venv in the repository root, or the folder DYCOKE_VENV names. It is made if it is missing,
# brought up to date if setup.py or the pins have changed, and left in place.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where Python may keep what it has compiled, which some containers forbid, imports take a third of the time: of torch,
# transformers and lmms-eval 6 seconds instead of 18, in every process.
unset PYTHONDONTWRITEBYTECODE

fail() {
    echo "error: $*" >&2
    exit 1
}

# Print the first Python on PATH that is 3.11 or newer. Each is started: a name on PATH may be a launcher of nothing.
find_python() {
    local name
    for name in python3.12 python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# start_group COMMAND...: start a command in a process group of its own, whose number is then in GROUP. However this
# script ends, at its reader's leaving or a hang-up too, the group ends with it, until end_group says that it is over.
start_group() {
    GROUP=
    trap 'kill -- "-${GROUP:-$!}" 2>/dev/null || true' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    set -m # each job has a group now
    "$@" </dev/null &
    set +m
    GROUP=$!
}

# end_group: wait for the group; its status is the command's.
end_group() {
    local status=0
    wait "$GROUP" || status=$?
    trap - EXIT HUP INT PIPE TERM
    return "$status"
}

# with_progress LOG MESSAGE COMMAND...: run a command that takes long, saying every few seconds that it still does.
# Its output goes to LOG, and is shown only if the command fails.
with_progress() {
    local log=$1 message=$2 step status=0
    shift 2
    local start=$SECONDS next=$((SECONDS + 2))
    start_group "$@" >"$log" 2>&1
    while kill -0 "$GROUP" 2>/dev/null; do
        if ((SECONDS >= next)); then
            step=$(grep -oE '^(Collecting|Downloading|Installing) [^ ]+' "$log" | tail -n 1) || step=starting
            echo "$message ($((SECONDS - start)) s): $step" >&2
            next=$((SECONDS + 15))
        fi
        sleep 0.2
    done
    end_group || status=$?
    if ((status != 0)); then
        tail -n 20 "$log" >&2
        fail "$message: failed; all of its output is in $log"
    fi
}

# stamp_of PINS: what the environment has to match.
stamp_of() {
    echo "$ROOT"
    cat "$ROOT/setup.py" "$ROOT/dycoke/version.py" ${1:+"$1"} | cksum
}

# prepare_environment DEFAULT_NAME [PINS]: set VENV to an environment with the package and its tools in it.
prepare_environment() {
    local pins=${2:-} python stamp
    VENV=${DYCOKE_VENV:-$ROOT/$1}
    stamp=$(stamp_of "$pins")
    if [[ -x $VENV/bin/python && -f $VENV/dycoke.stamp && $(<"$VENV/dycoke.stamp") == "$stamp" ]]; then
        return
    fi
    if [[ ! -x $VENV/bin/pip ]]; then # pip comes last: without it the environment is half-made
        python=$(find_python) || fail "no Python 3.11 or newer on PATH; install one (and its venv module) and try again"
        echo "making $VENV with $python" >&2
        start_group "$python" -m venv "$VENV" >&2
        end_group || fail "$python -m venv does not work; on Debian and Ubuntu install python3-venv"
    fi
    # Python compiles the few modules that are imported on first use; compiling all of them here takes a minute.
    with_progress "$VENV/install.log" "installing packages" \
        "$VENV/bin/python" -m pip install --no-compile --progress-bar off --editable "$ROOT[dev]" ${pins:+--constraint "$pins"}
    echo "$stamp" >"$VENV/dycoke.stamp"
}

# value_of OPTION DEFAULT [arguments]: print the value that the arguments give an option last, or the default.
value_of() {
    local option=$1 value=$2 previous="" argument
    shift 2
    for argument in "$@"; do
        if [[ $argument == "$option="* ]]; then value=${argument#*=}; fi
        if [[ $previous == "$option" ]]; then value=$argument; fi
        previous=$argument
    done
    echo "$value"
}

# show_help SCRIPT: print the comment at its top.
show_help() {
    sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$1"
}

# asks_for_help [arguments]: whether one of them does.
asks_for_help() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then return; fi
    done
    return 1
}

# reproduce NAME [arguments of `dycoke sweep`]: run what is missing of eval_configs/NAME.yaml, then report it. Relative
# paths are taken from the repository root.
reproduce() {
    local name=$1 results
    shift
    if asks_for_help "$@"; then
        show_help "$ROOT/scripts/reproduce_$name.sh"
        return
    fi
    results=$(value_of --results "" "$@") # the report has to look where the sweep writes
    prepare_environment .venv
    cd "$ROOT"
    # With DYCOKE_PARENT it ends as at Ctrl-C when this script is ended, and works on behind none.
    DYCOKE_PARENT=$BASHPID "$VENV/bin/dycoke" sweep "eval_configs/$name.yaml" "$@"
    DYCOKE_PARENT=$BASHPID "$VENV/bin/dycoke" report "$name" ${results:+--results "$results"}
}
