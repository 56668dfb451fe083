#!/usr/bin/env bash
# Train the embedded model by the recipe of the shipped one: two runs, the second from the weights of the first.
#
#   bash scripts/train_nano.sh FOLDER [PROCESSES [arguments of dycoke.nano.train]]
#
# PROCESSES (2) is the number of GPUs; a step sees 96 videos of each. FOLDER/second/model is the model,
# FOLDER/training_curve.jsonl has the losses and scores of both runs. It takes 25 minutes on two H200; with --minutes 9 a
# call ends sooner, and the next one goes on from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_for_help "$@"; then
    show_help "${BASH_SOURCE[0]}"
    exit
fi
if (($# < 1)); then fail "name a folder to train in"; fi
output=$1 processes=${2:-2}
shift $(($# > 1 ? 2 : 1))
more=("$@")
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES=$processes: expected an integer of at least 1"
prepare_environment .venv
cd "$ROOT"
export TOKENIZERS_PARALLELISM=false

launch=(--num_processes "$processes")
if ((processes > 1)); then launch+=(--multi_gpu); fi

# train NAME LAST ARGUMENTS...: a run in $output/NAME up to step LAST, unless it is there already.
train() {
    local folder=$output/$1 last=$2 resume=()
    shift 2
    if reached "$folder" "$last"; then return; fi
    if [[ -d $folder/state || -d $folder/state.before ]]; then resume=(--resume); fi
    "$VENV/bin/accelerate" launch "${launch[@]}" -m dycoke.nano.train --output "$folder" --until "$last" \
        --batch 96 --compile --workers 8 --log-every 50 --videos 48 "${resume[@]}" "$@" "${more[@]}"
    if ! reached "$folder" "$last"; then fail "$folder: cut before step $last; call again to go on"; fi
}

# reached FOLDER LAST: whether the run in a folder has saved what it came to at its last step.
reached() {
    [[ -f $1/curve.jsonl ]] && grep -q "^{\"step\": $2, \"k\"" "$1/curve.jsonl"
}

train first 8650 --steps 12000
train second 1800 --steps 1800 --start-from "$output/first/model" --seed 1 --rate 0.0005 --warm-up 100 --dense 0
cat "$output/first/curve.jsonl" "$output/second/curve.jsonl" >"$output/training_curve.jsonl"
