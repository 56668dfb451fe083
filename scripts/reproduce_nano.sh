#!/usr/bin/env bash
# The main rows of NanoVideoBench's table 1 on 204 questions, and whether they agree with those in results/.
#
#   bash scripts/reproduce_nano.sh [--all] [arguments of `dycoke sweep`]
#
# --all makes every nano table again instead, and says beforehand how long that takes. What is made goes to remade/,
# where a second call goes on, unless --results names another folder. Two processes share the work, on a core each,
# unless --processes gives their number. The exit code is 1 if a row does not agree, 2 if
# one cannot be compared.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

all="" arguments=(--results remade --processes 2)
for argument in "$@"; do
    if [[ $argument == --all ]]; then all=1; else arguments+=("$argument"); fi
done
if asks_for_help "$@"; then
    show_help "${BASH_SOURCE[0]}"
    exit
fi
results=$(value_of --results "" "${arguments[@]}") processes=$(value_of --processes "" "${arguments[@]}")
experiments=(nano_main) before=(results/nano_table1)
if [[ $all ]]; then
    experiments=(nano_table1 nano_table5 nano_fig5)
    before=("${experiments[@]/#/results/}")
fi

prepare_environment .venv
cd "$ROOT"
if [[ $all ]]; then
    "$VENV/bin/python" -m dycoke.eval.report.duration --processes "$processes" --again "$results" "${before[@]}"
fi

# One thread for each process: tiny tensors gain nothing from more, and processes would take each other's cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

status=0
for number in "${!experiments[@]}"; do
    reproduce "${experiments[number]}" "${arguments[@]}"
    again=$results/${experiments[number]}
    found=0
    "$VENV/bin/python" -m dycoke.eval.report.agreement "$again" "${before[number]}" || found=$?
    if ((found > status)); then status=$found; fi
done
exit "$status"
