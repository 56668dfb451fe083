#!/usr/bin/env bash
# Check style and the order of the rooms, and run the tests.
#
#   bash scripts/test.sh [--fast | --all] [--oldest] [arguments of pytest]
#
# --fast leaves out the end-to-end tests and what runs lmms-eval. --all runs more of the same, too: the model on every
# benchmark in miniature, every policy and every plan where one of a kind stands for the others otherwise. --oldest
# tests with the oldest supported releases, in .venv-oldest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name=.venv pins="" arguments=()
for argument in "$@"; do
    case $argument in
    --fast) arguments+=(-m "not slow") ;;
    --oldest) name=.venv-oldest pins=$ROOT/scripts/oldest.txt ;;
    -h | --help)
        show_help "${BASH_SOURCE[0]}"
        exit
        ;;
    *) arguments+=("$argument") ;;
    esac
done

prepare_environment "$name" "$pins"
cd "$ROOT"

# Two workers with a thread each: tiny tensors gain nothing from threads, and two cores halve the time.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Tests run in any case, so that one run says everything that is wrong.
status=0
"$VENV/bin/ruff" check . || status=1
"$VENV/bin/ruff" format --check . || status=1
"$VENV/bin/lint-imports" --no-cache || status=1 # who may import whom, as pyproject.toml has it; half a second
((status == 0)) || echo "style: failed, see above" >&2
"$VENV/bin/python" -m pytest -n 2 --dist loadgroup "${arguments[@]}" || status=$?
exit "$status"
