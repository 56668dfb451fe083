#!/usr/bin/env bash
# Figure 5 of the paper: K against the number of frames.
#
#   bash scripts/reproduce_figure5.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce figure5 "$@"
