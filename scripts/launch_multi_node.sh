#!/usr/bin/env bash
# Run an experiment, or lmms-eval, on the GPUs of several machines: on each GPU a process with a whole model and its
# share of the samples. To be started on every machine, with the same arguments but its own rank; they see the same
# files.
#
#   bash scripts/launch_multi_node.sh [OPTIONS] EXPERIMENT.yaml [arguments of `dycoke sweep`]
#   bash scripts/launch_multi_node.sh [OPTIONS] -- ARGUMENTS OF lmms-eval
#
#   --nodes M          number of machines                          [NNODES]
#   --node-rank R      number of this one, from 0                  [NODE_RANK, or SLURM_NODEID]
#   --main-address A   name or IP address of machine 0             [MASTER_ADDR]
#   --main-port P      a port that is free on machine 0            [MASTER_PORT, or 29500]
#   --gpus N           GPUs to use on each machine                 [all of this one's]
#
# What an option is if left out stands in brackets: a variable of the environment, or a value.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launching.sh"

nodes=${NNODES:-} rank=${NODE_RANK:-${SLURM_NODEID:-}} address=${MASTER_ADDR:-} port=${MASTER_PORT:-29500} gpus=""
while (($# > 0)); do
    case $1 in
    --nodes | --node-rank | --main-address | --main-port | --gpus)
        (($# > 1)) || misuse "$1: expected a value"
        case $1 in
        --nodes) nodes=$2 ;;
        --node-rank) rank=$2 ;;
        --main-address) address=$2 ;;
        --main-port) port=$2 ;;
        --gpus) gpus=$2 ;;
        esac
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
[[ -n $nodes ]] || misuse "how many machines? give --nodes, or set NNODES"
[[ -n $rank ]] || misuse "which machine is this? give --node-rank, or set NODE_RANK"
[[ -n $address ]] || misuse "where is machine 0? give --main-address, or set MASTER_ADDR"
check_count --nodes "$nodes" 2
check_count --node-rank "$rank" 0
check_count --main-port "$port" 1
((rank < nodes)) || misuse "--node-rank '$rank': expected 0 to $((nodes - 1)) of $nodes machines"

use_environment python3 accelerate dycoke
gpus=$(count_gpus "$gpus")
if [[ $1 != -- ]]; then
    exec dycoke sweep "$@" --processes "$gpus" --machines "$nodes" --machine-rank "$rank" \
        --main-address "$address" --main-port "$port"
fi
shift
# accelerate counts the processes of all machines.
exec accelerate launch --num_machines "$nodes" --machine_rank "$rank" --main_process_ip "$address" \
    --main_process_port "$port" --num_processes $((nodes * gpus)) --mixed_precision no --dynamo_backend no --multi_gpu \
    -m lmms_eval "$@"
