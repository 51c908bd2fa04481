#!/usr/bin/env bash
# The trial of deploy/compose.yaml: node and worker are killed while a case is computed, made anew,
# and its results must arrive in the PACS. Needs compose (or podman-compose), storescu, curl.
#   bash tests/bench/containers.sh             with docker compose
#   COMPOSE=podman-compose ENGINE=podman BUILDAH_FORMAT=docker bash tests/bench/containers.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
compose=${COMPOSE:-docker compose} engine=${ENGINE:-docker}
study=$(mktemp -d)
trap 'rm -rf "$study"' EXIT

received() { curl -sf http://127.0.0.1:8042/statistics | tr -d ' ,' | sed -n 's/"CountInstances"://p'; }
container() { $engine ps --quiet --filter "name=hilum[-_]$1[-_]1"; }
wait_until() {
    local left=600
    until eval "$1"; do
        [ $((left -= 1)) -gt 0 ] || { echo "not within time: $1" >&2; exit 1; }
        sleep 2
    done
}

.venv/bin/hilum phantom --seed 3 --small --out "$study/phantom"
cd deploy
[ -s container/database-password ] || head -c 24 /dev/urandom | base64 >container/database-password
chmod 644 container/database-password
$compose up --build --detach
wait_until '$engine logs "$(container node)" 2>&1 | grep -q "; Ctrl-C stops it"'
storescu +sd +r -aet SENDER -aec HILUM 127.0.0.1 11112 "$study/phantom/study"
wait_until '$engine logs "$(container worker)" 2>&1 | grep -q registration'
$engine kill "$(container worker)" "$(container node)"
$compose down
$compose up --detach
wait_until '[ "$(received)" -gt 0 ]'
wait_until '$engine exec "$(container node)" hilum cases list --config /etc/hilum/hilum.toml | grep -q delivered'
echo "$(received) objects arrived in the PACS"
$compose down
