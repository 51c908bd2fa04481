#!/usr/bin/env bash
# Runs Hilum from a fresh checkout: makes a private environment, installs from the lock, starts.
#   bash deploy/run.sh             the node, with the embedded defaults (or: --config FILE)
#   bash deploy/run.sh demo        a node on free ports, a synthetic patient through it, then stops
#   bash deploy/run.sh COMMAND...  any command of hilum
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/environment.sh

make_environment .venv deploy/requirements.lock

case "${1:-serve}" in
demo)
    shift
    exec .venv/bin/python deploy/demo.py "$@"
    ;;
-*) exec .venv/bin/hilum serve "$@" ;;
*)
    command=${1:-serve}
    [ $# -eq 0 ] || shift
    exec .venv/bin/hilum "$command" "$@"
    ;;
esac
