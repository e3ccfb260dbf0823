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
from clipbert.frames.decode import read_frames
from clipbert.frames.sampling import uniform_clips
from clipbert.model import ClipBertForOpenQA, ClipBertForRetrieval, ClipBertProcessor, load


class ServedClipBert(PythonModel):
    """A ClipBERT behind MLflow's `predict`.

    Retrieval: columns `video` (path of a file) and `text` give `score`, the probability that they match. Open QA:
    `video` and `question` give `answer` and `confidence`. A video that stands in several rows is read once.
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
            ClipBertError: a video cannot be read.
        """
        parts = []
        with torch.inference_mode():
            for video, rows in model_input.reset_index(drop=True).groupby("video", sort=False, dropna=False):
                visual_embeds = self._encode(Path(str(video)))
                for start in range(0, len(rows), self.settings["batch_size"]):
                    some = rows.iloc[start : start + self.settings["batch_size"]]
                    parts.append(self._answer(visual_embeds, some))
        return pd.concat(parts).sort_index().set_index(model_input.index)

    def _encode(self, video: Path) -> Tensor:
        """The visual tokens of one file's uniform clips, (1, K, V, hidden)."""
        wanted = {name: self.settings[name] for name in ("fps", "size", "max_frames", "timeout_s")}
        images = read_frames(video, **wanted).images
        clips = uniform_clips(len(images), self.settings["clips"], self.model.config.frames_per_clip)
        pixel_values = self.processor(frames=[images], clip_indices=[clips])["pixel_values"]
        return self.model.encode_video(pixel_values.to(self.model.device))

    def _answer(self, visual_embeds: Tensor, rows: pd.DataFrame) -> pd.DataFrame:
        question = isinstance(self.model, ClipBertForOpenQA)
        tokens = self.processor(texts=rows["question" if question else "text"].tolist()).to(self.model.device)
        logits = self.model(
            visual_embeds=visual_embeds,
            texts_per_video=torch.tensor([len(rows)], device=self.model.device),
            **tokens,
        ).logits.float()
        if question:
            confidences, choices = logits.softmax(dim=1).max(dim=1)
            answers = [self.model.config.answers[choice] for choice in choices.tolist()]
            return pd.DataFrame({"answer": answers, "confidence": confidences.tolist()}, index=rows.index)
        if not isinstance(self.model, ClipBertForRetrieval):
            raise ClipBertError(f"{type(self.model).__name__}: expected a retrieval or an open QA model.")
        scores = logits.softmax(dim=1)[:, 1] if logits.shape[1] == 2 else logits[:, 0].sigmoid()
        return pd.DataFrame({"score": scores.tolist()}, index=rows.index)


mlflow.models.set_model(ServedClipBert())
