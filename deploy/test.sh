#!/usr/bin/env bash
# Checks everything: style, types, import rules, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/environment.sh

packages=()
for pair in storescu:dcmtk Orthanc:orthanc dciodvfy:dicom3tools plastimatch:plastimatch strace:strace \
    openssl:openssl gcc:gcc chromium:chromium chromedriver:chromium-driver; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done
# the server's programs are not in the path
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || packages+=(postgresql)
if [ ${#packages[@]} -gt 0 ]; then
    install_debian "${packages[@]}" || echo "the tests that need them will say so" >&2
fi
export PIP_NO_COMPILE=1 # what is imported is compiled then: most is not
make_environment .venv-test deploy/requirements-test.lock

export PATH="$PWD/.venv-test/bin:$PATH"
if [ $# -eq 0 ]; then
    ruff check .
    ruff format --check .
    mypy
    lint-imports
fi
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 # as in the node's own children
unset PYTHONDONTWRITEBYTECODE                    # hundreds of processes start: each would compile all of it
# four at a time on two cores, for many tests wait for peers; a file on one of them: module fixtures
# are costly; in the order of tests/conftest.py, or the longest, which have the fewest tests, come last
exec python -m pytest -n 4 --dist loadfile --no-loadscope-reorder "$@"
