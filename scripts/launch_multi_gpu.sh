#!/usr/bin/env bash
# Run an experiment, or lmms-eval, on the GPUs of this machine: on each a process with a whole model and its share of
# the samples.
#
#   bash scripts/launch_multi_gpu.sh [--gpus N] EXPERIMENT.yaml [arguments of `dycoke sweep`]
#   bash scripts/launch_multi_gpu.sh [--gpus N] -- ARGUMENTS OF lmms-eval
#
# N: how many GPUs to use, all if left out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

gpus=""
while (($# > 0)); do
    case $1 in
    --gpus)
        (($# > 1)) || misuse "$1: expected a value"
        gpus=$2
        shift 2
        ;;
    -h | --help)
        show_help "${BASH_SOURCE[0]}"
        exit
        ;;
    --) break ;;
    -*) misuse "unknown option $1" ;;
    *) break ;;
    esac
done
check_target "$@"

use_environment python3 accelerate dycoke
gpus=$(count_gpus "$gpus")
if [[ $1 != -- ]]; then
    exec dycoke sweep "$@" --processes "$gpus"
fi
shift
arguments=(--num_machines 1 --num_processes "$gpus" --main_process_port 0 --mixed_precision no --dynamo_backend no)
if ((gpus > 1)); then # accelerate refuses the option for one
    arguments+=(--multi_gpu)
fi
exec accelerate launch "${arguments[@]}" -m lmms_eval "$@"
