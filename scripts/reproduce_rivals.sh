#!/usr/bin/env bash
# Every method at about 25 % and 10 % of the visual tokens.
#
#   bash scripts/reproduce_rivals.sh [arguments of `dycoke sweep`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reproduce rivals "$@"
