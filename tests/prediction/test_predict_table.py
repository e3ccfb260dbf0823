"""`clipbert predict`: the pipelines' answers for every task, errors in their rows, and continuation after a kill."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked_python import run_program
from small_model import TEXTS, save_small_model

from clipbert import pipeline
from clipbert.errors import ClipBertError
from clipbert.files.locks import file_lock
from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)
from clipbert.prediction import run
from clipbert.prediction.block import BlockPredictor
from clipbert.prediction.run import predict_table
from flows.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    return functools.partial(save_small_model, tmp_path / "model")


@pytest.fixture
def videos(tiny_video: Callable[..., Path], tmp_path: Path) -> list[str]:
    (tmp_path / "media").mkdir()
    return [tiny_video(tmp_path / "media" / f"{seed}.mp4", seed=seed).name for seed in range(3)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_get_the_pipelines_answers_in_the_tables_order(
    model: Callable[..., Path], videos: list[str], tmp_path: Path
) -> None:
    folder = model(ClipBertForOpenQA)
    rows = [{"id": n, "video": videos[n % 3], "question": TEXTS[n % 2]} for n in range(7)]
    source = write_rows(tmp_path / "q.jsonl", rows)
    summary = predict_table(folder, "open_qa", source, tmp_path / "a.jsonl", tmp_path / "media")
    assert (summary.rows, summary.failed, summary.kept) == (7, 0, 0)
    ask = pipeline("open_qa", folder)
    for row, found in zip(rows, read_rows(tmp_path / "a.jsonl"), strict=True):
        (expected,) = ask(tmp_path / "media" / row["video"], row["question"], top=1)
        assert {name: found[name] for name in row} == row
        assert found["answer"] == expected["answer"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert found["error"] is None
    assert not list(tmp_path.glob(".a.jsonl.parts"))


@pytest.mark.parametrize("kind", [ClipBertForRetrieval, ClipBertForPreTraining])
def test_texts_get_the_scores_of_match(
    model: Callable[..., Path], videos: list[str], tmp_path: Path, kind: type[Any]
) -> None:
    folder = model(kind, projection_size=8)
    task = "retrieval" if kind is ClipBertForRetrieval else "pretrain"
    rows = [{"video": videos[n], "text": text} for n in range(2) for text in TEXTS]
    source = write_rows(tmp_path / "t.jsonl", rows)
    predict_table(folder, task, source, tmp_path / "s.jsonl", tmp_path / "media")
    use = pipeline(task, folder)
    expected = [
        score for n in range(2) for score in use.match(use.encode([tmp_path / "media" / videos[n]]), list(TEXTS))
    ]
    assert [row["score"] for row in read_rows(tmp_path / "s.jsonl")] == pytest.approx(expected, abs=1e-4)


def test_options_and_captions(model: Callable[..., Path], videos: list[str], tmp_path: Path) -> None:
    media = tmp_path / "media"
    folder = model(ClipBertForMultipleChoice)
    options = [["red", "blue"], ["two", "red", "a red circle"]]
    rows = [{"video": videos[n], "question": TEXTS[1], "options": options[n]} for n in range(2)]
    predict_table(folder, "multiple_choice", write_rows(tmp_path / "q.jsonl", rows), tmp_path / "a.jsonl", media)
    choose = pipeline("multiple_choice", folder)
    for row, found in zip(rows, read_rows(tmp_path / "a.jsonl"), strict=True):
        expected = choose(media / row["video"], row["question"], row["options"])[0]
        assert (found["answer"], found["option"]) == (expected["answer"], expected["option"])
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    folder = model(ClipBertForCaptioning)
    source = write_rows(tmp_path / "v.jsonl", [{"video": name} for name in videos])
    predict_table(folder, "captioning", source, tmp_path / "c.jsonl", media)
    describe = pipeline("captioning", folder)
    for name, found in zip(videos, read_rows(tmp_path / "c.jsonl"), strict=True):
        assert found["caption"] == describe(media / name)[0]["caption"]


def test_a_bad_row_gets_its_error_and_the_others_their_answers(
    model: Callable[..., Path], videos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "media" / "broken.mp4").write_bytes(b"not a video")
    rows = [
        {"video": videos[0], "question": TEXTS[0]},
        {"video": "broken.mp4", "question": TEXTS[0]},
        {"video": "missing.mp4", "question": TEXTS[0]},
        {"video": videos[0], "question": "  "},
        {"video": None, "question": TEXTS[0]},
        {"video": videos[1], "question": TEXTS[0], "start_s": "late"},
        {"video": videos[1], "question": TEXTS[0], "start_s": 900},
        {"video": videos[1], "question": TEXTS[1]},
    ]
    source = write_rows(tmp_path / "q.jsonl", rows)
    summary = predict_table(model(ClipBertForOpenQA), "open_qa", source, tmp_path / "a.jsonl", tmp_path / "media")
    errors = [row["error"] for row in read_rows(tmp_path / "a.jsonl")]
    assert errors[0] is errors[-1] is None
    for error, expected in zip(
        errors[1:-1],
        ("broken.mp4: cannot be decoded", "not found", "question is '  '", "video is None", "'late'", "start_s is 900"),
        strict=True,
    ):
        assert expected in error
    assert summary.failed == 6
    assert len(summary.errors) == 5
    assert summary.errors[0].startswith("row 2: ")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_keeps_its_columns_in_every_format(
    model: Callable[..., Path], videos: list[str], tmp_path: Path, suffix: str
) -> None:
    rows = [{"video": name, "question": 'a "red", circle', "note": "größer\nthan"} for name in videos]
    source = tmp_path / f"q.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    else:
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if suffix == "tsv" else "excel")
            writer.writeheader()
            writer.writerows(rows)
    output = tmp_path / f"a.{suffix}"
    predict_table(model(ClipBertForOpenQA), "open_qa", source, output, tmp_path / "media")
    if suffix == "parquet":
        found = pq.read_table(output).to_pylist()
    else:
        with output.open(newline="") as file:
            found = list(csv.DictReader(file, dialect="excel-tab" if suffix == "tsv" else "excel"))
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert {row["answer"] for row in found} <= {"red", "blue", "two"}


def test_an_interrupted_run_continues_and_another_model_starts_again(
    model: Callable[..., Path], videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "VIDEOS_IN_BLOCK", 1)
    folder = model(ClipBertForOpenQA)
    source = write_rows(tmp_path / "q.jsonl", [{"video": name, "question": TEXTS[0]} for name in videos])
    work, number = BlockPredictor._results, 0

    def failing(self: BlockPredictor, *arguments: Any) -> Any:
        nonlocal number
        number += 1
        if number == 3:
            raise KeyboardInterrupt
        return work(self, *arguments)

    monkeypatch.setattr(BlockPredictor, "_results", failing)
    with pytest.raises(KeyboardInterrupt):
        predict_table(folder, "open_qa", source, tmp_path / "a.jsonl", tmp_path / "media")
    assert not (tmp_path / "a.jsonl").exists()
    summary = predict_table(folder, "open_qa", source, tmp_path / "a.jsonl", tmp_path / "media")
    assert (summary.rows, summary.kept) == (3, 2)
    whole = read_rows(tmp_path / "a.jsonl")
    number = 0
    with pytest.raises(KeyboardInterrupt):
        predict_table(folder, "open_qa", source, tmp_path / "b.jsonl", tmp_path / "media")
    write_rows(source, [{"video": name, "question": TEXTS[1]} for name in videos])
    summary = predict_table(folder, "open_qa", source, tmp_path / "b.jsonl", tmp_path / "media")
    assert summary.kept == 0
    assert [row["question"] for row in read_rows(tmp_path / "b.jsonl")] != [row["question"] for row in whole]


def test_a_killed_command_continues_with_the_same_result(
    model: Callable[..., Path], tiny_video: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model(ClipBertForOpenQA)
    (tmp_path / "media").mkdir()
    rows = []
    for number in range(100):  # four blocks
        name = tiny_video(tmp_path / "media" / f"{number}.mp4", seed=number).name
        rows.append({"video": name, "question": TEXTS[number % 2]})
    source = write_rows(tmp_path / "q.jsonl", rows)
    predict_table(folder, "open_qa", source, tmp_path / "expected.jsonl", tmp_path / "media")
    command = ["-m", "clipbert", "predict", "--task", "open_qa", "--model", str(folder), "--input", str(source)]
    command += ["--media", str(tmp_path / "media"), "--output", "a.jsonl"]
    process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, start_new_session=True)
    parts = tmp_path / ".a.jsonl.parts"
    while not (parts / "000000.json").exists() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.jsonl").exists()
    done = run_program(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows were predicted by an earlier run" in done.stdout
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "expected.jsonl").read_text()


def test_two_runs_do_not_write_the_same_table(model: Callable[..., Path], videos: list[str], tmp_path: Path) -> None:
    source = write_rows(tmp_path / "q.jsonl", [{"video": videos[0], "question": TEXTS[0]}])
    with (
        file_lock(tmp_path / ".a.jsonl.lock"),
        pytest.raises(ClipBertError, match=r"a\.jsonl: another process is writing it"),
    ):
        predict_table(model(ClipBertForOpenQA), "open_qa", source, tmp_path / "a.jsonl", tmp_path / "media")


@pytest.mark.parametrize(
    ("rows", "output", "message"),
    [
        ([{"file": "a.mp4", "question": "what"}], "a.csv", r"q\.jsonl: has no column video, only file, question"),
        ([{"video": "a.mp4"}], "a.csv", "has no column question, only video; open_qa needs video, question"),
        ([{"video": "a.mp4", "question": "w", "answer": "red"}], "a.csv", "has a column answer, which the results"),
        ([], "a.csv", r"q\.jsonl: has no rows"),
        ([{"video": "a.mp4", "question": "w"}], "a.xlsx", r"--output .*a\.xlsx: expected a file name that ends in"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    model: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]], output: str, message: str
) -> None:
    source = write_rows(tmp_path / "q.jsonl", rows)
    with pytest.raises(ClipBertError, match=message):
        predict_table(model(ClipBertForOpenQA), "open_qa", source, tmp_path / output)
    assert not (tmp_path / output).exists()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each a process."""
    port = free_port()
    log = (tmp_path / "dask.log").open("ab")
    started: list[subprocess.Popen[bytes]] = []
    for role, arguments in (
        ("scheduler", ("--host", "127.0.0.1", "--port", str(port))),
        ("worker", (f"127.0.0.1:{port}", "--no-nanny", "--nthreads", "1", "--local-directory", str(tmp_path / "0"))),
        ("worker", (f"127.0.0.1:{port}", "--no-nanny", "--nthreads", "1", "--local-directory", str(tmp_path / "1"))),
    ):
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments, "--no-dashboard"]
        started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
    yield f"dask://127.0.0.1:{port}"
    for process in started:
        process.kill()
        process.wait()


def test_a_cluster_gives_the_results_of_this_machine_though_a_worker_dies(
    model: Callable[..., Path], videos: list[str], tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    monkeypatch.setattr(run, "VIDEOS_IN_BLOCK", 1)
    folder = model(ClipBertForOpenQA)
    rows = [{"video": videos[n % 3], "question": TEXTS[n % 3]} for n in range(9)]
    source = write_rows(tmp_path / "q.jsonl", rows)
    predict_table(folder, "open_qa", source, tmp_path / "here.jsonl", tmp_path / "media")
    with Client(scheduler.replace("dask", "tcp"), timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        victim = next(iter(client.run(os.getpid).values()))
        killer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
        killer.start()
        predict_table(folder, "open_qa", source, tmp_path / "there.jsonl", tmp_path / "media", scheduler)
        killer.join()
    assert (tmp_path / "there.jsonl").read_text() == (tmp_path / "here.jsonl").read_text()


def test_an_executor_that_is_no_cluster_is_named(model: Callable[..., Path], videos: list[str], tmp_path: Path) -> None:
    source = write_rows(tmp_path / "q.jsonl", [{"video": videos[0], "question": TEXTS[0]}])
    with pytest.raises(ClipBertError, match=r"--executor ray://a: expected local or dask://HOST:PORT"):
        predict_table(
            model(ClipBertForOpenQA), "open_qa", source, tmp_path / "a.csv", tmp_path / "media", executor="ray://a"
        )
