"""Exports of every task's model: equal to the model for other sizes than the traced ones, and usable without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from forked_python import run_program
from small_model import TEXTS, save_small_model

from clipbert import pipeline
from clipbert.errors import ClipBertError
from clipbert.export import write
from clipbert.export.write import export_model
from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)

pytestmark = pytest.mark.slow

# runs a program in a process that finds neither torch nor this package
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "clipbert", "transformers"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_model(folder: Path, kind: type[Any], **fields: Any) -> Path:
    return save_small_model(folder, kind, scale=3.0, frames_per_clip=2, **fields)


def run_example(export: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(export / "example.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


CASES = {
    "retrieval": (ClipBertForRetrieval, {"projection_size": 8}),
    "retrieval without a dual encoder": (ClipBertForRetrieval, {}),
    "a direct video head alone": (
        ClipBertForRetrieval,
        {"projection_size": 24, "video_head": "direct", "cross_encoder": False},
    ),
    "open_qa": (ClipBertForOpenQA, {"answer_loss": "bce"}),
    "multiple_choice": (ClipBertForMultipleChoice, {"score_aggregation": "mean"}),
    "captioning": (ClipBertForCaptioning, {}),
    "pretrain": (ClipBertForPreTraining, {"score_aggregation": "max"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_example_gives_the_pipelines_answers_without_torch(tmp_path: Path, tiny_video: Any, case: str) -> None:
    kind, fields = CASES[case]
    folder = make_model(tmp_path / "model", kind, **fields)
    video = tiny_video(tmp_path / "a.mp4", seed=1)
    written = export_model(folder, tmp_path / "export")
    assert all(part.difference <= 1e-4 for part in written)
    use = pipeline(None, folder)
    if kind is ClipBertForCaptioning:
        done = run_example(tmp_path / "export", video)
        expected = use(video, beams=1)
        (tmp_path / "b.mp4").write_bytes(b"no video")
        bad = run_example(tmp_path / "export", tmp_path / "b.mp4")
        assert bad.returncode == 1
        assert "b.mp4: cannot be decoded" in bad.stderr
    elif kind is ClipBertForOpenQA:
        done = run_example(tmp_path / "export", video, TEXTS[1])
        expected = use(video, TEXTS[1])
    elif kind is ClipBertForMultipleChoice:
        done = run_example(tmp_path / "export", video, *TEXTS)
        expected = use(video, TEXTS[0], list(TEXTS[1:]))
    else:
        done = run_example(tmp_path / "export", video, *TEXTS)
        scores = use.match(use.encode([video]), TEXTS)
        expected = [{"text": text, "score": score} for score, text in sorted(zip(scores, TEXTS, strict=True))[::-1]]
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        name = next(name for name in ("caption", "answer", "text") if name in ours)
        assert ours[name] == theirs[name]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_a_program_of_torch_export_runs_with_other_sizes(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", ClipBertForRetrieval, projection_size=8)
    export_model(folder, tmp_path / "export", "pt2")
    settings = json.loads((tmp_path / "export" / "export.json").read_text())
    assert not (tmp_path / "export" / "example.py").exists()
    model = pipeline("retrieval", folder).model
    encode = torch.export.load(tmp_path / "export" / settings["parts"]["vision_encoder"]["file"]).module()
    pixels = torch.randint(0, 256, (5, 7, 2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        tokens, vectors = encode(pixels)
        expected = model.encode_video(pixels)
        assert torch.allclose(tokens, expected, atol=1e-4)
        assert torch.allclose(vectors, model.get_video_features(expected), atol=1e-4)


def test_an_onnx_file_names_its_axes_and_takes_any_number_of_rows(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", ClipBertForOpenQA)
    export_model(folder, tmp_path / "export")
    session = onnxruntime.InferenceSession(tmp_path / "export" / "cross_encoder.onnx")
    assert {each.name: each.shape[:2] for each in session.get_inputs()} == {
        "visual_embeds": ["batch", "clips"],
        "input_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
    }
    model = pipeline("open_qa", folder).model
    embeds = model.encode_video(torch.randint(0, 256, (11, 3, 2, 3, 64, 64), dtype=torch.uint8)).detach()
    ids = torch.randint(0, model.config.vocab_size, (11, 23))
    mask = (torch.arange(23) < torch.arange(3, 14)[:, None]).long()
    (found,) = session.run(
        None, {"visual_embeds": embeds.numpy(), "input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    )
    with torch.no_grad():
        expected = model(visual_embeds=embeds, input_ids=ids, attention_mask=mask).logits
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_a_part_that_differs_from_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "model", ClipBertForOpenQA)
    monkeypatch.setattr(write, "TOLERANCE", -1.0)
    with pytest.raises(ClipBertError, match=r"vision_encoder: visual_embeds differs by .* from the model with batch 2"):
        export_model(folder, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_command_writes_an_export_and_replaces_only_one(tmp_path: Path) -> None:
    make_model(tmp_path / "model", ClipBertForOpenQA)
    command = ("-m", "clipbert", "export", "--model", "model", "--output")
    for _ in range(2):
        done = run_program(*command, "out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "cross_encoder.onnx: 0." in done.stdout
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for arguments, message in (
        (("mine",), "--output mine: holds other files: expected an earlier export"),
        (("model",), "--output model: holds other files"),
        (("other", "--format", "tflite"), "--format tflite: expected one of onnx, pt2"),
    ):
        done = run_program(*command, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
