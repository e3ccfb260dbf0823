#!/usr/bin/env bash
# `make run`: from whatever is here to registered models and a summary. Environment and PATH come from the Makefile.
# `RECIPE=small make run` writes that recipe into params.yaml first.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "make run: this folder is not a git repository, and DVC versions data together with git. Clone the project, or run" >&2
    echo "  git init && git add -A && git commit -m 'Start'" >&2
    exit 2
fi
if [ -n "${RECIPE:-}" ]; then
    python -m scripts.apply_recipe "$RECIPE"
fi
if [ ! -e data ]; then
    if [ -e data.dvc ] && dvc pull --quiet data.dvc 2>/dev/null; then
        echo "data/ was pulled from the DVC remote"
    else
        clipbert sample-data
    fi
fi
started=$(date +%s)
python -m scripts.run_tasks
echo "The stages took $(($(date +%s) - started)) s"
clipbert summary
python -m scripts.show_use
