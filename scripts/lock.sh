#!/usr/bin/env bash
# Resolve pyproject.toml (with the dev extra) in a fresh environment and write every version, without hashes or addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-python3}" -m venv "$fresh/venv"
"$fresh/venv/bin/python" -m pip install -qq --disable-pip-version-check setuptools ".[dev]"
{
    echo "# Every transitive version of clipbert[dev]; made by \`make lock\`. Packages of a CUDA build of torch are left"
    echo "# out: pip resolves them where that build is what torch's pin names."
    "$fresh/venv/bin/python" -m pip freeze --exclude clipbert --exclude pip --all |
        grep -v -i -E '^(nvidia-|triton|cuda-)' | sed -E 's/ @ .*//; s/\+cpu$//'
} >"$fresh/requirements.lock"
! grep -n -E '://|^-' "$fresh/requirements.lock"
mv "$fresh/requirements.lock" requirements.lock
echo "requirements.lock: $(grep -c == requirements.lock) packages"
