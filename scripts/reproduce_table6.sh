#!/usr/bin/env bash
# Table 6 of the paper: VideoMME at equal FLOPs.
#
#   bash scripts/reproduce_table6.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce table6 "$@"
