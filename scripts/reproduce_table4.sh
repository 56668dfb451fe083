#!/usr/bin/env bash
# Table 4 of the paper: milliseconds for a decoded token.
#
#   bash scripts/reproduce_table4.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table4 "$@"
