"""Segments in the gate: inside their videos, with candidate frames, and what to set where they have too few."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clipbert.config.data import ValidateParams
from clipbert.data.validation.checks import checks
from clipbert.data.validation.segments import ClipSettings, has_segments, measure_segments

VIDEOS = pd.DataFrame(
    [("a.mp4", "video", 640.0), ("b.mp4", "video", 10.0), ("i.jpg", "image", 1.0)],
    columns=["media", "kind", "duration_s"],
)


def texts(*segments: tuple[str, float | None, float | None]) -> pd.DataFrame:
    rows = [
        {"id": f"t{number}", "kind": "caption", "media": media, "split": "train", "start_s": start, "end_s": end}
        for number, (media, start, end) in enumerate(segments)
    ]
    return pd.DataFrame(rows).astype({"start_s": float, "end_s": float})


def settings(frames_per_clip: int = 1, max_frames: int = 64) -> ClipSettings:
    return ClipSettings(fps=2.0, max_frames=max_frames, frames_per_clip=frames_per_clip)


def test_texts_about_whole_videos_are_not_measured() -> None:
    assert not has_segments(texts(("a.mp4", None, None)))
    assert not has_segments(texts(("a.mp4", None, None)).drop(columns=["start_s", "end_s"]))
    assert has_segments(texts(("a.mp4", None, None), ("a.mp4", 3, None)))


def test_frames_inside_and_the_settings_that_are_enough() -> None:
    given = texts(("b.mp4", 0, 5), ("a.mp4", None, None), ("a.mp4", 6, 14), ("a.mp4", 600, 640.4), ("b.mp4", 9, None))
    rows, covered = measure_segments(given, VIDEOS, settings(frames_per_clip=2))
    # the most demanding one first
    assert rows["id"].tolist() == ["t2", "t3", "t4", "t0"]
    assert rows["frames"].tolist() == [0, 4, 2, 10]
    assert rows["beyond_s"].tolist() == pytest.approx([0, 0.4, 0, 0])
    assert (covered.max_frames, covered.fps) == (160, 2.0)
    rows, covered = measure_segments(given, VIDEOS, settings(frames_per_clip=2, max_frames=160))
    assert rows["frames"].min() == 2
    assert covered.max_frames == 160


def test_segments_outside_ask_for_no_other_settings() -> None:
    given = texts(("b.mp4", 12, 20), ("b.mp4", 8, 20), ("i.jpg", 0, 1))
    rows, covered = measure_segments(given, VIDEOS, settings(frames_per_clip=2))
    assert dict(zip(rows["id"], rows["duration_s"], strict=True)) == {"t0": 10.0, "t1": 10.0, "t2": 0.0}
    assert dict(zip(rows["id"], rows["beyond_s"], strict=True)) == {"t0": 10.0, "t1": 10.0, "t2": 1.0}
    assert (covered.max_frames, covered.more_fps) == (64, False)


def test_the_remedy_names_the_parameters() -> None:
    def remedies(*segments: tuple[str, float, float]) -> dict[str, str]:
        _, covered = measure_segments(texts(*segments), VIDEOS, settings())
        return {check.name: check.remedy for check in checks(ValidateParams(), covered)}

    assert "set frames.max_frames to 80, which is enough" in remedies(("a.mp4", 6, 14))["segment_frames"]
    assert "set frames.fps to 2.5 and frames.max_frames to 64" in remedies(("b.mp4", 0.3, 0.7))["segment_frames"]
    assert not any(check.table == "segments" for check in checks(ValidateParams()))


@pytest.mark.slow
def test_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_validation import text, video

    from clipbert.data.manifest import SEGMENTS_SCHEMA, TEXTS_FILE, VIDEOS_FILE, VIDEOS_SCHEMA, sign, write_table
    from clipbert.data.validation.stage import validate
    from clipbert.errors import ClipBertError

    splits = ["train", "train", "val", "test"]
    videos = [video(number, split) | {"duration_s": 100.0} for number, split in enumerate(splits)]
    rows: list[dict[str, Any]] = [text(f"c{number}", number, split) for number, split in enumerate(splits)]
    (tmp_path / "manifest").mkdir()

    def gate(frames_per_clip: int, *segments: tuple[float, float | None], **severity: str) -> None:
        with write_table(tmp_path / "manifest" / VIDEOS_FILE, VIDEOS_SCHEMA) as table:
            for row in videos:
                table.add(row)
        with write_table(tmp_path / "manifest" / TEXTS_FILE, SEGMENTS_SCHEMA) as table:
            for row, (start, end) in zip(rows, segments, strict=True):
                table.add({**row, "start_s": start, "end_s": end})
        sign(tmp_path / "manifest")
        params = ValidateParams.model_validate({"min_train_videos": 0, "severity": severity})
        validate(tmp_path / "manifest", tmp_path / "out", params, settings=settings(frames_per_clip))

    def warnings() -> str:
        return " ".join(line for line in capsys.readouterr().out.splitlines() if "warning" in line)

    gate(2, (0, 50), (0, 100.3), (40, None), (10, 20))
    assert not warnings()
    gate(2, (0, 50), (0, 100.3), (40, None), (10, 10.5))
    assert "segment_clips: segments:" in warnings()
    with pytest.raises(ClipBertError) as caught:
        gate(2, (0, 50), (0, 103), (140, None), (20, 20.8))
    message = str(caught.value)
    assert "the data fails 3 of" in message
    assert (
        "segments: segments: expect_column_pair_values_a_to_be_greater_than_b (duration_s, start_s): 1 of 4" in message
    )
    assert "A segment starts after its video ends" in message
    assert "A segment ends more than 0.5 s after its video" in message
    assert "frames=0, id=c3, media=videos/3.mp4, split=test, start_s=20.0, end_s=20.8, duration_s=100.0" in message
    assert "set frames.max_frames to 250, which is enough for all segments" in message
    assert "segment_clips" not in warnings()  # a segment without a frame fails the other check only
    gate(2, (0, 50), (0, 100), (40, None), (20, 20.8), segment_frames="warn")
    assert "segment_frames: segments:" in warnings()
