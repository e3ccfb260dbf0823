"""A CLIP model goes through the whole chain without training: train, evaluate, register, pipeline, served model."""

import json
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from dual_encoders import reference, write_clip
from dvc_project import clipbert
from params_file import write_params
from torch.nn.functional import normalize

from clipbert import pipeline
from clipbert.release.store import embedded_uri

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]

SETTINGS = """
model: {dual_encoder: models/clip, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
tasks: {retrieval: {epochs: 0, cross_encoder: false}}
evaluate: {clips: 2}
"""
TEXT = "a red circle moves left"


def test_a_clip_model_is_evaluated_registered_and_served(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    shutil.copytree(tiny_project, root)
    (root / "mlflow").mkdir()
    write_clip(root / "models" / "clip")
    write_params(root, SETTINGS)
    said = clipbert("train", "retrieval", cwd=root).stdout
    assert "78 weights of model.dual_encoder from models/clip" in said
    assert "retrieval: tasks.retrieval.epochs = 0: the initial weights are evaluated without training" in said
    clipbert("evaluate", "retrieval", cwd=root)
    clipbert("register", "retrieval", cwd=root)

    artifacts = root / "artifacts"
    metrics = json.loads((artifacts / "metrics" / "retrieval.json").read_text())
    for k in (1, 5, 10):
        assert metrics[f"retrieval/r{k}"] == metrics[f"retrieval/dual_encoder_r{k}"]
    assert "The initial weights, without training." in (artifacts / "models" / "retrieval" / "README.md").read_text()
    assert json.loads((artifacts / "releases" / "retrieval.json").read_text())["alias"] == "candidate"
    assert len(pd.read_csv(artifacts / "history" / "retrieval" / "val.csv")) == 1

    videos = sorted(map(str, (root / "data" / "videos").glob("clip_*.mp4")))[:3]
    search = pipeline("retrieval", artifacts / "models" / "retrieval")
    found = {row["video"]: row["score"] for row in search(TEXT, videos)}
    assert found == pytest.approx(_zero_shot_scores(root, search, videos), abs=1e-3)
    monkeypatch.setenv("CLIPBERT_MEDIA_ROOTS", str(root / "data"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded_uri(root))  # set_tracking_uri would last for other tests
    served = mlflow.pyfunc.load_model("models:/clipbert-retrieval@candidate")
    rows = served.predict(pd.DataFrame({"video": videos, "text": [TEXT] * 3}))
    assert dict(zip(videos, rows["score"], strict=True)) == pytest.approx(found, abs=1e-4)


@torch.no_grad()
def _zero_shot_scores(root: Path, search: object, videos: list[str]) -> dict[str, float]:
    """Return the scores that transformers' CLIPModel gives: the mean over the frames of the clips."""
    model, processor = search.model, search.processor  # type: ignore[attr-defined]
    clip = reference("clip", root / "models" / "clip")
    ids = processor.dual_tokenizer.tokenizer([TEXT], return_tensors="pt")
    text = normalize(clip.get_text_features(**ids).pooler_output, dim=-1)
    scores = {}
    for video in videos:
        pixels = model.clipbert.vision.normalize(processor([video])["pixel_values"].flatten(0, 2))
        frames = normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        scores[video] = float(clip.logit_scale.exp() * text @ normalize(frames.mean(dim=0), dim=0))
    return scores
