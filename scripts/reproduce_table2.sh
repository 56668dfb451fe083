#!/usr/bin/env bash
# Table 2 of the paper: MVBench with 16 frames.
#
#   bash scripts/reproduce_table2.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table2 "$@"
