#!/usr/bin/env bash
# From a fresh checkout to an answer: make the environment, then ask about a sample video with and without DyCoke.
#
#   bash scripts/quickstart.sh [arguments of `dycoke ask`]
#
# The environment is .venv, or the folder DYCOKE_VENV names; making it takes minutes and some gigabytes the first time.
# With arguments behind the video and the question, such as --method full or --frames 16: see `dycoke ask --help` in it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_for_help "$@"; then
    show_help "${BASH_SOURCE[0]}"
    exit
fi
prepare_environment .venv
# The embedded model has 8 layers; the paper's L = 3 is for models of 24 and more.
exec "$VENV/bin/dycoke" ask "$ROOT/dycoke/nano/samples/digits.mp4" "Describe the events in order." \
    --compare full,dycoke --l 5 "$@"
