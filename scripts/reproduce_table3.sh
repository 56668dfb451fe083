#!/usr/bin/env bash
# Table 3 of the paper: time and memory of MVBench.
#
#   bash scripts/reproduce_table3.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table3 "$@"
