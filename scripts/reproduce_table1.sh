#!/usr/bin/env bash
# Table 1 of the paper: six benchmarks with the 0.5B, 7B and 72B models.
#
#   bash scripts/reproduce_table1.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table1 "$@"
