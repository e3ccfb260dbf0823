"""`python -m scripts.new_videos`, which fills the inbox of docs/operate.md."""

import json
from pathlib import Path

import pytest
from arriving import ArrivingData

from clipbert.data.synthetic.sample_set import make_sample_data
from scripts.new_videos import deliver, main


@pytest.mark.slow
def test_what_is_delivered_can_be_merged_but_for_the_damaged_video(tmp_path: Path) -> None:
    project = ArrivingData(tmp_path)
    make_sample_data(project.data, train=4, val=1, test=1)
    deliver(project.inbox, 3, seed=1)
    rows = [json.loads(line) for line in (project.inbox / "captions-1.jsonl").read_text().splitlines()]
    assert len({row["media"] for row in rows}) == 4
    assert all(row.keys() == {"id", "media", "text"} and (project.inbox / row["media"]).is_file() for row in rows)
    result = project.collect()
    assert result.values()["media"] == 3
    assert {reason["code"] for reason in project.reasons()} == {"unreadable", "media"}
    assert project.left() == []


def test_a_second_seed_brings_other_videos_and_a_repeated_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("1", "2"):
        monkeypatch.setattr("sys.argv", ["new_videos", "2", "--seed", seed])
        assert main() == 0
    told = capsys.readouterr().out
    for seed in (1, 2):
        assert f"2 videos and a damaged one in inbox/videos, their captions in inbox/captions-{seed}.jsonl\n" in told
    assert len(list((tmp_path / "inbox/videos").iterdir())) == 6
    assert main() == 2
    assert "inbox/captions-2.jsonl: exists; expected an inbox without it" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["new_videos", "--seed", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
