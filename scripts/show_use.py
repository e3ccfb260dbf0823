"""Show what the trained models are for: index the videos, search them, and ask a question, each with the command.

    python -m scripts.show_use

Started by scripts/run.sh at the end of `make run`. The text is the shortest caption of a test video, and the question
the first one about that video, or of the test split.
"""

import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd

from clipbert.config.load import load_params

COLUMNS = ["kind", "media", "text", "split", "media_kind"]


def main() -> int:
    """Run the commands of the tasks that have a model; return the exit code of the first that failed."""
    wanted = [task for task in load_params(Path("params.yaml")).tasks_run if Path("artifacts/models", task).is_dir()]
    for command in commands(wanted):
        print(f"\n$ {shlex.join(command)}", flush=True)
        if code := subprocess.call([sys.executable, "-m", *command]):
            return code
    return 0


def commands(tasks: list[str]) -> list[list[str]]:
    """Return the commands for the tasks of this project."""
    texts = pd.read_parquet("artifacts/manifest/texts.parquet", columns=COLUMNS)
    shown = texts[(texts["split"] == "test") & (texts["media_kind"] == "video")]
    captions, questions = shown[shown["kind"] == "caption"], shown[shown["kind"] == "open_qa"]
    found, video = [], None
    if "retrieval" in tasks and len(captions):
        text, video = captions.loc[captions["text"].str.len().idxmin(), ["text", "media"]]
        found.append(["clipbert", "index", "build"])
        found.append(["clipbert", "search", str(text), "-k", "3", "--where", "split=test"])
    if "open_qa" in tasks and len(questions):
        about = questions[questions["media"] == video]
        first = (about if len(about) else questions).iloc[0]
        found.append(["clipbert", "ask", f"data/{first['media']}", str(first["text"])])
    return found


if __name__ == "__main__":
    sys.exit(main())
