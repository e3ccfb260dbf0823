"""Pretrained dual encoders: features and scores are transformers' own, at the start and after saving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from dual_encoders import KINDS, TEXTS, reference, siglip2_inputs, write_dual_encoder
from torch.nn.functional import normalize

from clipbert.config.schema import Params
from clipbert.model import ClipBertProcessor, load
from clipbert.model.activation_checkpointing import set_activation_checkpointing, set_microbatches
from clipbert.model.dual_tokenizer import DualTokenizer
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.tasks.scoring import match_scores
from clipbert.training.setup import build_model

EXAMPLE = Example("v", ["q", "r"], TEXTS[:2], ["", ""], ["", ""])


@dataclass
class Built:
    """A retrieval model and its processor made from a folder, and transformers' model of the folder."""

    kind: str
    model: Any
    processor: ClipBertProcessor
    source: Any

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return transformers' features (frames, P) of all frames of videos."""
        pixels = self.model.clipbert.vision.normalize(pixel_values.flatten(0, 2))
        inputs = siglip2_inputs(pixels, 8) if self.kind == "siglip2" else {"pixel_values": pixels}
        return self.source.get_image_features(**inputs).pooler_output

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """Return transformers' features (N, P) of texts, padded as its documentation says."""
        tokenizer, length = self.processor.dual_tokenizer.tokenizer, {"clip": 77}.get(self.kind, 64)
        encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        mask = {"attention_mask": encoded["attention_mask"]} if self.kind == "clip" else {}
        return self.source.get_text_features(input_ids=encoded["input_ids"], **mask).pooler_output


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = write_dual_encoder(request.param, tmp_path_factory.mktemp("dual") / request.param)
    params = Params.model_validate({"model": {"dual_encoder": str(folder), "clips": 2, "frames_per_clip": 2}})
    task = make_task("retrieval", params.tasks)
    model, processor = build_model(task, [EXAMPLE], params.model, params.frames, params.evaluate.clips)
    return Built(request.param, model.eval(), processor, reference(request.param, folder))


@pytest.fixture
def pixels() -> torch.Tensor:
    """Two videos of two clips of two frames."""
    return torch.randint(0, 256, (2, 2, 2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_features_are_those_of_transformers(built: Built, pixels: torch.Tensor) -> None:
    """CLIP: the projected state of the class and the end token. SigLIP: the pooling head and the last position."""
    images, texts = built.image_features(pixels), built.text_features(TEXTS)
    assert images.std() > 0.1
    assert texts.std() > 0.1
    pooled = built.model.clipbert.encode_video_and_frames(pixels)[1]
    torch.testing.assert_close(built.model.contrast.image_features(pooled).flatten(0, 2), images, rtol=0, atol=1e-5)
    ids = built.processor.dual_tokenizer(TEXTS)
    torch.testing.assert_close(built.model.contrast.text_features(ids), texts, rtol=0, atol=1e-5)
    unit = built.model.get_text_features(**built.processor(texts=TEXTS))
    torch.testing.assert_close(unit, normalize(texts, dim=-1), rtol=0, atol=1e-5)


def test_a_text_that_is_cut_is_reported_once(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = DualTokenizer(built.processor.dual_tokenizer.tokenizer, built.processor.dual_tokenizer.length)
    tokenizer(TEXTS)
    assert caplog.messages == []
    for _ in range(2):
        assert tokenizer([TEXTS[0], "red " * 200]).shape == (2, tokenizer.length)
    (message,) = caplog.messages
    assert message.startswith("texts[1] has ")
    assert f" tokens of the dual encoder: it reads {tokenizer.length}, and longer texts are cut." in message


@torch.no_grad()
def test_a_video_is_the_mean_of_its_frames(built: Built, pixels: torch.Tensor) -> None:
    frames = normalize(built.image_features(pixels), dim=-1).view(2, 4, -1)
    video = built.model.get_video_features(built.model.encode_video(pixels))
    torch.testing.assert_close(video, normalize(frames.mean(dim=1), dim=-1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_score_starts_as_the_zero_shot_score(built: Built, pixels: torch.Tensor) -> None:
    """For videos of one frame, it is `logits_per_text` of transformers: temperature, and SigLIP's bias."""
    visual = built.model.encode_video(pixels[:, :1, :1])
    images, texts = built.image_features(pixels[:, :1, :1]), built.text_features(TEXTS[:2])
    expected = normalize(texts, dim=-1) @ normalize(images, dim=-1).T * built.source.logit_scale.exp()
    expected = expected + (0 if built.kind == "clip" else built.source.logit_bias)
    tokens = built.processor(texts=TEXTS[:2])
    features = built.model.get_text_and_video_features(**tokens, visual_embeds=visual)
    similarity = built.model.similarity(*features)
    torch.testing.assert_close(similarity, expected, rtol=0, atol=1e-4)
    scores = match_scores(built.model, visual, **tokens, similarity=similarity.diagonal(), batch_size=1)
    assert torch.equal(scores, similarity.diagonal())


@torch.no_grad()
def test_the_cross_encoder_reads_its_own_tokens(built: Built, pixels: torch.Tensor) -> None:
    """Logits depend on neither the dual encoder's tokens nor its embeddings."""
    torch.nn.init.normal_(built.model.classifier[-1].weight)
    tokens, visual = built.processor(texts=TEXTS[:2]), built.model.encode_video(pixels)
    logits = built.model(**tokens, visual_embeds=visual).logits
    assert logits.std() > 0
    length, rows = built.model.config.dual_text_length, built.model.config.embedding_tokens
    changed_ids, changed_visual = tokens["input_ids"].clone(), visual.clone()
    changed_ids[:, -length:] = 1
    changed_visual[:, :, -rows:] = 9.0
    again = built.model(input_ids=changed_ids, attention_mask=tokens["attention_mask"], visual_embeds=changed_visual)
    assert torch.equal(again.logits, logits)
    torch.testing.assert_close(built.model(pixels, **tokens).logits, logits)
    built.model.start_at_zero_shot()
    assert not built.model(**tokens, visual_embeds=visual).clip_logits.any()


def test_a_saved_folder_has_both_tokenizers(built: Built, pixels: torch.Tensor, tmp_path: Path) -> None:
    built.model.save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    model, processor = load(tmp_path), ClipBertProcessor.from_pretrained(tmp_path)
    tokens = built.processor(texts=TEXTS)
    assert torch.equal(processor(texts=TEXTS)["input_ids"], tokens["input_ids"])
    assert processor.resize == ("crop" if built.kind == "clip" else "stretch")
    with torch.no_grad():
        assert torch.equal(model.encode_video(pixels), built.model.encode_video(pixels))
        assert torch.equal(model.get_text_features(**tokens), built.model.get_text_features(**tokens))


def test_parts_and_recomputation_give_the_same_gradients(built: Built, pixels: torch.Tensor) -> None:
    tokens = built.processor(texts=TEXTS[:2])

    def gradients() -> dict[str, torch.Tensor]:
        built.model.zero_grad()
        text, video = built.model.get_text_and_video_features(**tokens, visual_embeds=built.model.encode_video(pixels))
        (text @ video.T).square().sum().backward()
        return {name: value.grad.clone() for name, value in built.model.named_parameters() if value.grad is not None}

    expected = gradients()
    assert any(name.startswith("contrast.text_encoder") for name in expected)
    assert any(name.startswith("clipbert.vision.backbone") for name in expected)
    for change, undo in ((set_microbatches, 1), (set_activation_checkpointing, False)):
        change(built.model, 2 if change is set_microbatches else True)
        found = gradients()
        change(built.model, undo)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_texts_without_the_dual_encoders_tokens_are_refused(built: Built) -> None:
    ids = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"input_ids has shape \(1, 5\): expected .* followed by \d+ of the dual encoder"
    ):
        built.model.get_text_features(ids)
    with pytest.raises(ValueError, match=r"visual_embeds has shape \(1, 1, 1, 128\): expected .* from encode_video"):
        built.model.get_video_features(torch.zeros(1, 1, 1, 128))
