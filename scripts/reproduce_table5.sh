#!/usr/bin/env bash
# Table 5 of the paper: the ablation.
#
#   bash scripts/reproduce_table5.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table5 "$@"
