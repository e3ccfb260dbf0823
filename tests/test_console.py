"""Progress as plain lines where there is no terminal."""

import pytest

from clipbert import console


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_EVERY_S", 0.0)
    with console.progress("work", total=3) as advance:
        for _ in range(3):
            advance(1, "loss 0.5")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["work: 1/3 loss 0.5", "work: 2/3 loss 0.5", "work: 3/3 loss 0.5"]
    assert lines[0].endswith("s left)")


def test_without_a_title_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(None, total=1) as advance:
        advance(1, "")
    assert capsys.readouterr().out == ""
