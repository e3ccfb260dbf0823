"""Deliver new sample videos with captions to the inbox, as another program would: docs/operate.md.

    python -m scripts.new_videos           40 videos, and one that was cut off while it was copied
    python -m scripts.new_videos 10 --seed 2

Equal seeds give equal bytes, and the files of a seed have its number in their names.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from clipbert.data.synthetic.sample_set import make_sample_data
from clipbert.errors import ClipBertError


def deliver(inbox: Path, videos: int, seed: int) -> Path:
    """Write videos and a file with their captions into the inbox; return the path of the captions.

    The rows name no split: the inbox draws one for each video. The captions come last, so that every row finds its
    video.

    Args:
        inbox: the folder; it is made if it does not exist.
        videos: how many; one more is damaged.
        seed: of the videos; that of the sample set in data/ is 0.

    Raises:
        ClipBertError: the seed was delivered before, and its files are still in the inbox.
    """
    rows = inbox / f"captions-{seed}.jsonl"
    if rows.exists():
        raise ClipBertError(f"{rows}: exists; expected an inbox without it. Choose another --seed.")
    (inbox / "videos").mkdir(parents=True, exist_ok=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made")
        make_sample_data(made, seed, train=videos, val=0, test=0)
        for line in (made / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if not row["media"].startswith("videos/"):
                continue
            name = f"videos/new{seed}_{Path(row['media']).name}"
            if not (inbox / name).exists():
                shutil.copyfile(made / row["media"], inbox / name)
            lines.append(json.dumps({"id": f"new{seed}-{row['id']}", "media": name, "text": row["text"]}) + "\n")
    rows.write_text("".join(lines), encoding="utf-8")
    return rows


def main() -> int:
    """Deliver to the folder inbox/ of the project in the current folder; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.new_videos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", nargs="?", type=int, default=40, help="how many (40); one more is damaged")
    parser.add_argument("--seed", type=int, default=1, help="of the videos (1)")
    options = parser.parse_args()
    if options.videos < 1 or options.seed < 1:
        parser.error("expected at least 1 video, and a seed of 1 or more: the sample set in data/ has seed 0")
    try:
        rows = deliver(Path("inbox"), options.videos, options.seed)
    except ClipBertError as error:
        print(f"new_videos: {error}", file=sys.stderr)
        return 2
    print(f"{options.videos} videos and a damaged one in inbox/videos, their captions in {rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
