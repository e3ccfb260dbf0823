"""The registered model as MLflow loads and serves it: videos and texts in, scores or answers out.

MLflow runs this file as the model's code (models from code): the weights are safetensors and nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel
from torch import Tensor

from clipbert.errors import ClipBertError
from clipbert.frames.given import read_given
from clipbert.frames.sampling import uniform_clips
from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertProcessor,
    Decoding,
    load,
)
from clipbert.model.losses import aggregate
from clipbert.params import FramesParams


class ServedClipBert(PythonModel):
    """A ClipBERT behind MLflow's `predict`.

    Retrieval: columns `video` (path of a file) and `text` give `score`, the probability that they match. Open QA:
    `video` and `question` give `answer` and `confidence`; image QA has `image` in place of `video`. Multiple choice:
    `video`, `question` and `options` give `answer`, its position `option`, and `confidence`. Captioning: `video` gives
    `caption` and its log-probability `score`. A pretrained model: `image` and `text` give `score`, the probability that
    they match. A file that stands in several rows is read once.
    """

    def load_context(self, context: Any) -> None:
        """Read weights, tokenizer and the evaluation's settings (`load_model(..., model_config=)` overrides them)."""
        folder = Path(context.artifacts["model"])
        self.model: Any = load(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = ClipBertProcessor.from_pretrained(folder)
        self.settings: dict[str, Any] = dict(context.model_config)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One output row for each input row, in the same order.

        Raises:
            ClipBertError: a video or image cannot be read, or a question has no options.
        """
        parts = []
        media = "image" if "image" in model_input else "video"
        with torch.inference_mode():
            for path, rows in model_input.reset_index(drop=True).groupby(media, sort=False, dropna=False):
                visual_embeds = self._encode(str(path))
                for start in range(0, len(rows), self.settings["batch_size"]):
                    some = rows.iloc[start : start + self.settings["batch_size"]]
                    parts.append(self._answer(visual_embeds, some))
        return pd.concat(parts).sort_index().set_index(model_input.index)

    def _encode(self, path: str) -> Tensor:
        """The visual tokens of one file's uniform clips, (1, K, V, hidden)."""
        wanted = {name: self.settings[name] for name in ("fps", "size", "max_frames", "timeout_s")}
        images = read_given(path, FramesParams(**wanted))
        clips = uniform_clips(len(images), self.settings["clips"], self.model.config.frames_per_clip)
        pixel_values = self.processor(frames=[images], clip_indices=[clips])["pixel_values"]
        return self.model.encode_video(pixel_values.to(self.model.device))

    def _answer(self, visual_embeds: Tensor, rows: pd.DataFrame) -> pd.DataFrame:
        if isinstance(self.model, ClipBertForCaptioning):
            return self._describe(visual_embeds, rows)
        if isinstance(self.model, ClipBertForMultipleChoice):
            return self._choose(visual_embeds, rows)
        if isinstance(self.model, ClipBertForOpenQA):
            logits = self._logits(visual_embeds, rows["question"].tolist())
            soft = self.model.config.answer_loss == "bce"
            confidences, choices = (logits.sigmoid() if soft else logits.softmax(dim=1)).max(dim=1)
            answers = [self.model.config.answers[choice] for choice in choices.tolist()]
            return pd.DataFrame({"answer": answers, "confidence": confidences.tolist()}, index=rows.index)
        if isinstance(self.model, ClipBertForPreTraining):
            tokens = self.processor(texts=rows["text"].tolist()).to(self.model.device)
            counts = torch.tensor([len(rows)], device=self.model.device)
            out = self.model(visual_embeds=visual_embeds, texts_per_video=counts, **tokens)
            scores = aggregate(out.itm_logits, self.model.config.score_aggregation).softmax(dim=1)[:, 1]
            return pd.DataFrame({"score": scores.tolist()}, index=rows.index)
        if not isinstance(self.model, ClipBertForRetrieval):
            raise ClipBertError(
                f"{type(self.model).__name__}: expected a retrieval, captioning or question-answering model."
            )
        logits = self._logits(visual_embeds, rows["text"].tolist())
        scores = logits.softmax(dim=1)[:, 1] if logits.shape[1] == 2 else logits[:, 0].sigmoid()
        return pd.DataFrame({"score": scores.tolist()}, index=rows.index)

    def _describe(self, visual_embeds: Tensor, rows: pd.DataFrame) -> pd.DataFrame:
        words, config = self.processor.tokenizer, self.model.config
        search = {name: self.settings[name] for name in ("beams", "max_length", "length_penalty", "no_repeat_ngram")}
        search["max_length"] = min(search["max_length"], config.max_position_embeddings)
        decoding = Decoding(**search)
        ids, scores = self.model.generate(
            visual_embeds=visual_embeds, start=words.cls_token_id, end=words.sep_token_id, decoding=decoding
        )
        caption = words.decode(ids[0], skip_special_tokens=True)
        return pd.DataFrame({"caption": caption, "score": float(scores[0])}, index=rows.index)

    def _choose(self, visual_embeds: Tensor, rows: pd.DataFrame) -> pd.DataFrame:
        options = [list(some) for some in rows["options"]]
        if [] in options:
            question = rows["question"].iloc[options.index([])]
            raise ClipBertError(f"options of the question {question!r} are empty: expected at least one option.")
        texts = [f"{question} {o}" for question, some in zip(rows["question"], options, strict=True) for o in some]
        counts = torch.tensor([len(some) for some in options], device=self.model.device)
        confidences, choices = self._logits(visual_embeds, texts, options_per_question=counts).softmax(dim=1).max(dim=1)
        chosen = choices.tolist()
        answers = [some[choice] for some, choice in zip(options, chosen, strict=True)]
        return pd.DataFrame({"answer": answers, "option": chosen, "confidence": confidences.tolist()}, index=rows.index)

    def _logits(self, visual_embeds: Tensor, texts: list[str], **more: Tensor) -> Tensor:
        tokens = self.processor(texts=texts).to(self.model.device)
        counts = torch.tensor([len(texts)], device=self.model.device)
        logits: Tensor = self.model(visual_embeds=visual_embeds, texts_per_video=counts, **tokens, **more).logits
        return logits.float()


mlflow.models.set_model(ServedClipBert())
