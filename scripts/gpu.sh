#!/bin/sh
# Run the GPU kit (docs/how-to/gpu.md): tests, benchmarks and trainings that need a GPU, within 8 minutes.
# Needs Python 3.11 or later with torch, transformers, numpy, pandas, pyarrow, pillow, pyyaml, rich, filelock, fsspec,
# regex, safetensors and, for tests/gpu, pytest with pytest-timeout and pytest-xdist; nothing is installed.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FIND='import importlib.util as i, sys; sys.exit(not (i.find_spec("torch") and i.find_spec("transformers")))'
if ! "$PYTHON" -c "$FIND"; then
    echo "scripts/gpu.sh: $PYTHON has no torch or no transformers; name another: PYTHON=/path/to/python scripts/gpu.sh" >&2
    exit 2
fi
PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false \
    exec "$PYTHON" -m benchmarks.gpu "$@"
