#!/usr/bin/env bash
# `make install`: the pinned dependencies and the project into the virtual environment of the given python.
# uv installs in a fifth of pip's time. It is taken from PATH or from the package index; where neither has it, or it
# fails (it does not read pip's configuration files), pip does the work.
set -euo pipefail
python=$1
cd "$(dirname "$0")/.."
pip=("$python" -m pip install -qq --disable-pip-version-check)

uv=$(command -v uv || true)
if [ -z "$uv" ] && "${pip[@]}" --only-binary :all: uv 2>/dev/null; then
    uv=$(dirname "$python")/uv
fi

with_uv() {
    local options=(-q --python "$python") link
    for link in ${PIP_FIND_LINKS:-}; do options+=(--find-links "$link"); done
    for link in ${PIP_EXTRA_INDEX_URL:-}; do options+=(--extra-index-url "$link"); done
    if [ -n "${PIP_INDEX_URL:-}" ]; then options+=(--index-url "$PIP_INDEX_URL"); fi
    "$uv" pip install "${options[@]}" -r requirements.lock &&
        "$uv" pip install "${options[@]}" --no-deps --no-build-isolation --editable .
}

if [ -z "$uv" ] || ! with_uv; then
    echo "Installing with pip, which takes a few minutes"
    "${pip[@]}" -r requirements.lock
    "${pip[@]}" --no-deps --no-build-isolation --editable .
fi
