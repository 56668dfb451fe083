#!/usr/bin/env bash
# Run an experiment, or lmms-eval, on several machines under SLURM: one task on each, which starts a process for each of
# its GPUs. To be adapted: partition, account, numbers and times are the cluster's. To be submitted from the repository
# root, which every machine sees under the same path.
#
#   sbatch [options of sbatch] scripts/slurm_example.sh EXPERIMENT.yaml [arguments of `dycoke sweep`]
#   sbatch [options of sbatch] scripts/slurm_example.sh -- ARGUMENTS OF lmms-eval
#
#SBATCH --job-name=dycoke
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^[^#]/{s/^# //p;s/^#$//p}' "${BASH_SOURCE[0]}"
    exit
fi
if [[ -z ${SLURM_JOB_ID:-} || -z ${SLURM_JOB_NODELIST:-} ]]; then
    echo "error: no SLURM job; submit this with sbatch; see --help" >&2
    exit 2
fi

# SLURM runs a copy of this file that lies elsewhere, in the folder it was submitted from.
launcher=$SLURM_SUBMIT_DIR/scripts/launch_multi_node.sh
if [[ ! -f $launcher ]]; then
    echo "error: no $launcher; submit this from the repository root; see --help" >&2
    exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export NNODES=$SLURM_JOB_NUM_NODES MASTER_ADDR=${hosts%%$'\n'*}
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a machine must not share a port
unset NODE_RANK                                      # each task has its own SLURM_NODEID

# One machine that fails ends the others, which would wait for it. srun does not take --cpus-per-task over by itself.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash "$launcher" "$@"
