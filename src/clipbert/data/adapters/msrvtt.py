"""MSR-VTT (Xu et al., CVPR 2016): videodatainfo.json and a folder of videos become canonical data; MSRVTT-QA too."""

import errno
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipbert.console import progress
from clipbert.data.manifest import SPLITS
from clipbert.data.media_types import VIDEO_SUFFIXES
from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory

OFFICIAL_SPLITS = {"train": "train", "validate": "val", "test": "test"}
ANNOTATIONS_PATTERN = "*videodatainfo.json*"
NAMED_MISSING = 10


@dataclass
class ImportSummary:
    """What was imported, and which videos of the annotations were not there."""

    videos: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    questions: int = 0
    copied: int = 0
    missing: list[str] = field(default_factory=list)
    dropped_questions: int = 0

    def lines(self) -> list[str]:
        """The summary a person reads."""
        by_split = ", ".join(f"{self.videos[split]} {split}" for split in SPLITS)
        how = f"{self.videos.total() - self.copied} hard-linked, {self.copied} copied"
        found = [f"videos: {self.videos.total()} ({by_split}; {how})", f"captions: {self.captions}"]
        if self.questions or self.dropped_questions:
            dropped = f" ({self.dropped_questions} left out: their video is missing)" if self.dropped_questions else ""
            found.append(f"questions: {self.questions}{dropped}")
        if self.missing:
            more = f" and {len(self.missing) - NAMED_MISSING} more" if len(self.missing) > NAMED_MISSING else ""
            found.append(f"missing videos: {len(self.missing)}: {', '.join(self.missing[:NAMED_MISSING])}{more}")
        return found


def import_msrvtt(
    annotations: Path,
    videos: Path,
    out: Path,
    captions_per_test_video: int | None = None,
    qa: Path | None = None,
) -> ImportSummary:
    """Make the canonical data folder `out` from MSR-VTT.

    Args:
        annotations: a videodatainfo.json, its zip, or a folder with several of either (train_val and test).
        videos: a folder, searched to its depth, of files named after their video id (video0.mp4). They are hard-linked
            into `out`/videos, or copied when they lie on another file system.
        captions_per_test_video: keep the first so many captions of each test video; None: all.
        qa: MSRVTT-QA, one JSON object a line: question, answer, video_id, answer_type (optional).

    Raises:
        ClipBertError: `out` is not empty, a file is missing or not in its official layout, or none of the videos is
            there; nothing is written then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClipBertError(f"{out}: is not an empty folder. Move it away, or import into another folder.")
    if captions_per_test_video is not None and captions_per_test_video < 1:
        raise ClipBertError(f"captions_per_test_video = {captions_per_test_video}: expected at least 1.")
    splits, captions = _read_annotations(annotations)
    files = _video_files(videos)
    summary = ImportSummary(missing=[name for name in splits if name not in files])
    present = {name: split for name, split in splits.items() if name in files}
    if not present:
        raise ClipBertError(
            f"{videos}: none of the {len(splits)} videos of {annotations} is there; expected files such as "
            f"{summary.missing[0]}.mp4."
        )
    with atomic_directory(out) as folder:
        media = _place_videos(folder, present, files, summary)
        with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
            used: Counter[str] = Counter()
            for name, identity, text in captions:
                limited = captions_per_test_video is not None and splits[name] == "test"
                if name in media and not (limited and used[name] >= (captions_per_test_video or 0)):
                    used[name] += 1
                    _write_line(file, {"id": identity, "media": media[name], "text": text, "split": splits[name]})
            summary.captions = used.total()
        if qa is not None:
            with (folder / "open_qa.jsonl").open("w", encoding="utf-8") as file:
                for name, question in _read_questions(qa):
                    if name in media:
                        _write_line(file, {**question, "media": media[name], "split": splits[name]})
                        summary.questions += 1
                    else:
                        summary.dropped_questions += 1
            if not summary.questions:
                raise ClipBertError(f"{qa}: none of its questions is about an imported video.")
    return summary


def _read_annotations(path: Path) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """({video id: split}, [(video id, caption id, caption)]) of all files together; white-space captions left out."""
    sources = sorted(path.glob(ANNOTATIONS_PATTERN)) if path.is_dir() else [path]
    if not sources:
        raise ClipBertError(f"{path}: no file in it matches {ANNOTATIONS_PATTERN}.")
    splits: dict[str, str] = {}
    captions: list[tuple[str, str, str]] = []
    for source in sources:
        content = _load(source)
        try:
            for video in content["videos"]:
                split = OFFICIAL_SPLITS.get(video["split"])
                if split is None:
                    raise ClipBertError(
                        f"{source}: {video['video_id']} has split {video['split']!r}; "
                        f"expected one of {', '.join(OFFICIAL_SPLITS)}."
                    )
                splits[video["video_id"]] = split
            for sentence in content["sentences"]:
                if sentence["caption"].strip():
                    captions.append((sentence["video_id"], f"caption-{sentence['sen_id']}", sentence["caption"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ClipBertError(
                f"{source}: not MSR-VTT's layout ({type(error).__name__}: {error}); expected "
                '{"videos": [{"video_id", "split"}], "sentences": [{"video_id", "sen_id", "caption"}]}.'
            ) from None
    if not splits or not captions:
        raise ClipBertError(f"{path}: holds {len(splits)} videos and {len(captions)} captions; nothing to import.")
    return splits, [caption for caption in captions if caption[0] in splits]


def _load(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                inner = [name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name]
                if len(inner) != 1:
                    raise ClipBertError(f"{path}: holds {len(inner)} json files; expected one.")
                return json.loads(archive.read(inner[0]))
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ClipBertError(f"{path}: no such file; expected MSR-VTT's videodatainfo.json, or its zip.") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ClipBertError(f"{path}: cannot be read as JSON ({error}).") from error


def _video_files(folder: Path) -> dict[str, Path]:
    """{video id: file}, the mp4 where there are several."""
    if not folder.is_dir():
        raise ClipBertError(f"{folder}: no such folder; expected the one with the videos (video0.mp4, ...).")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
    return {path.stem: path for path in sorted(found, key=lambda path: (path.suffix == ".mp4", path))}


def _place_videos(
    folder: Path, present: dict[str, str], files: dict[str, Path], summary: ImportSummary
) -> dict[str, str]:
    """Put the videos below `folder`: {video id: media}."""
    (folder / "videos").mkdir()
    media = {}
    with progress("import", len(present)) as advance:
        for name, split in present.items():
            media[name] = f"videos/{name}{files[name].suffix.lower()}"
            summary.copied += _link_or_copy(files[name].resolve(), folder / media[name])
            summary.videos[split] += 1
            advance(1, name)
    return media


def _link_or_copy(source: Path, target: Path) -> bool:
    """Hard-link, or copy where the file system will not have it; whether it was copied."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
        return True
    return False


def _read_questions(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (video id, a line of open_qa.jsonl without media and split)."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                    name = value["video_id"]
                    question = {"id": f"question-{number}", "question": value["question"], "answer": value["answer"]}
                    if value.get("answer_type"):
                        question["answer_type"] = value["answer_type"]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ClipBertError(
                        f"{path}:{number}: not a question of MSRVTT-QA ({type(error).__name__}: {error}); expected "
                        '{"question", "answer", "video_id", "answer_type"} on one line.'
                    ) from None
                yield name, question
    except FileNotFoundError:
        raise ClipBertError(f"{path}: no such file; expected MSRVTT-QA, one JSON object a line.") from None
    except UnicodeDecodeError as error:
        raise ClipBertError(f"{path}: not UTF-8 ({error.reason}).") from error


def _write_line(file: Any, value: dict[str, str]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
