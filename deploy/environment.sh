# Sourced by run.sh and test.sh: the private Python environment.

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "Hilum needs Python 3.11 or newer; install it (Debian: apt-get install python3 python3-venv)" >&2
    return 1
}

install_debian() {
    if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        echo "missing Debian packages: $*; install them as root: apt-get install $*" >&2
        return 1
    fi
}

# make_environment FOLDER LOCK: a virtual environment with exactly what the lock says, and Hilum.
# Left alone when it was already made from the same lock and the same source.
make_environment() {
    local folder=$1 lock=$2 python stamp
    python=$(find_python)
    stamp=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_debian python3-venv
    fi
    echo "installing into $PWD/$folder (once; a minute or two)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --editable .
    echo "$stamp" >"$folder/stamp"
}
