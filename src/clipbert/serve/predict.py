"""One line to use a trained model: `pipeline(task, folder)` gives an object to call with videos and texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbert.errors import ClipBertError, first_line
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
from clipbert.model.processor import check_videos
from clipbert.params import FramesParams
from clipbert.task_params import CaptioningParams

VIDEOS_AT_ONCE = 16
PRETRAINED = (
    "a pretrained model is a start for other trainings and has no pipeline. Train one of them from it with "
    "`model.init_from: FOLDER` in params.yaml, or use its heads through clipbert.model.load(FOLDER)."
)


class Pipeline:
    """A model in evaluation mode and its processor; videos are paths, file bytes, frame arrays or PIL images."""

    def __init__(self, model: Any, processor: ClipBertProcessor, frames: FramesParams | None = None) -> None:
        self.model = model
        self.processor = processor
        self.frames = frames

    def _encode(self, video: Any) -> Tensor:
        """Visual tokens (1, K, V, hidden) of the video's uniform clips."""
        pixels = self.processor(frames=[video], candidates=self.frames)["pixel_values"]
        embeds: Tensor = self.model.encode_video(pixels.to(self.model.device))
        return embeds

    def _logits(self, visual_embeds: Tensor, texts: list[str]) -> Tensor:
        """Logits of N texts beside one video (1, K, V, hidden)."""
        tokens = self.processor(texts=texts).to(self.model.device)
        counts = torch.tensor([len(texts)], device=self.model.device)
        logits: Tensor = self.model(visual_embeds=visual_embeds, texts_per_video=counts, **tokens).logits
        return logits.float()


class RetrievalPipeline(Pipeline):
    """`search(text, videos)`: the videos, best match first."""

    @torch.inference_mode()
    def __call__(self, text: str, videos: Sequence[Any]) -> list[dict[str, Any]]:
        """`[{"index", "video", "score"}]`, best first; `video` is what was given. The score is evaluation's: log odds
        of a match, plus the towers' similarity where the model has them.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: no videos, an empty text, or frames of a wrong shape.
        """
        check_videos(videos, "videos")
        tokens = self.processor(texts=[text]).to(self.model.device)
        vector = None if self.model.contrast is None else self.model.text_features(**tokens)
        scores = []
        for start in range(0, len(videos), VIDEOS_AT_ONCE):
            embeds = torch.cat([self._encode(video) for video in videos[start : start + VIDEOS_AT_ONCE]])
            rows = {name: value.expand(len(embeds), -1) for name, value in tokens.items()}
            score = self.model.match_scores(self.model(visual_embeds=embeds, **rows).logits.float())
            if vector is not None:
                score = score + self.model.similarity(vector, self.model.video_features(embeds))[0].float()
            scores.append(score)
        whole = torch.cat(scores)
        order = whole.argsort(descending=True, stable=True).tolist()
        return [{"index": i, "video": videos[i], "score": float(whole[i])} for i in order]


class OpenQAPipeline(Pipeline):
    """`ask(video, question)`: the likeliest answers."""

    @torch.inference_mode()
    def __call__(self, video: Any, question: str, top: int = 5) -> list[dict[str, Any]]:
        """`[{"answer", "score"}]`, `top` of them at most, best first; scores are probabilities.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an empty question, `top` below 1, or frames of a wrong shape.
        """
        if top < 1:
            raise ValueError(f"top is {top}: expected at least 1.")
        logits = self._logits(self._encode(video), [question])[0]
        scores = logits.sigmoid() if self.model.config.answer_loss == "bce" else logits.softmax(dim=0)
        best = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [{"answer": self.model.config.answers[i], "score": float(scores[i])} for i in best]


class MultipleChoicePipeline(Pipeline):
    """`choose(video, question, options)`: the options, likeliest first."""

    @torch.inference_mode()
    def __call__(self, video: Any, question: str, options: Sequence[str]) -> list[dict[str, Any]]:
        """`[{"option", "answer", "score"}]`, best first: position, text and probability of each option.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: no options, an empty question, or frames of a wrong shape.
        """
        if isinstance(options, str) or len(options) == 0:
            raise ValueError(f"options is {options!r}: expected a list of at least one text.")
        scores = self._logits(self._encode(video), [f"{question} {option}" for option in options])[0].softmax(dim=0)
        order = scores.argsort(descending=True, stable=True).tolist()
        return [{"option": i, "answer": options[i], "score": float(scores[i])} for i in order]


class CaptioningPipeline(Pipeline):
    """`describe(video)`: a sentence."""

    @torch.inference_mode()
    def __call__(self, video: Any, **search: Any) -> list[dict[str, Any]]:
        """`[{"caption", "score"}]`, the one caption that the search finds and its log-probability.

        `search`: `beams`, `max_length`, `length_penalty`, `no_repeat_ngram`, as `Decoding` has them; what is not given
        is as in the defaults of params.yaml's section `tasks.captioning`.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an option of the search that there is not, or that is out of its range; frames of a wrong shape.
        """
        usual = CaptioningParams().search()
        if unknown := sorted(search.keys() - usual.keys()):
            raise ValueError(f"{unknown[0]} is no option of the search: expected some of {', '.join(usual)}.")
        longest = self.model.config.max_position_embeddings
        decoding = Decoding(**(usual | {"max_length": min(usual["max_length"], longest)} | search))
        words = self.processor.tokenizer
        ids, scores = self.model.generate(
            visual_embeds=self._encode(video), start=words.cls_token_id, end=words.sep_token_id, decoding=decoding
        )
        return [{"caption": words.decode(ids[0], skip_special_tokens=True), "score": float(scores[0])}]


# Each task's model and what calls it; image QA is open QA on images. A new task adds its line.
PIPELINES: dict[str, tuple[type[Any], type[Pipeline]]] = {
    "retrieval": (ClipBertForRetrieval, RetrievalPipeline),
    "open_qa": (ClipBertForOpenQA, OpenQAPipeline),
    "image_qa": (ClipBertForOpenQA, OpenQAPipeline),
    "multiple_choice": (ClipBertForMultipleChoice, MultipleChoicePipeline),
    "captioning": (ClipBertForCaptioning, CaptioningPipeline),
}


def pipeline(
    task: str | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    frames: FramesParams | None = None,
) -> Any:
    """The pipeline of a model folder, such as `artifacts/models/retrieval`.

    Args:
        task: retrieval, open_qa, image_qa, multiple_choice or captioning; None: what the folder's model is for.
        model: the folder.
        device: where to run; None: cuda where there is one, otherwise cpu.
        frames: how files are sampled; None: the defaults of params.yaml's section `frames`.

    Raises:
        ClipBertError: an unknown task, a model of another task, a folder that is no complete model, or no such device.
    """
    if task == "pretrain":
        raise ClipBertError(f"task is 'pretrain': {PRETRAINED}")
    if task is not None and task not in PIPELINES:
        raise ClipBertError(f"task is {task!r}: expected one of {', '.join(PIPELINES)}.")
    if model is None:
        raise ClipBertError("model is missing: expected a model folder, such as artifacts/models/retrieval.")
    loaded = load(model)
    if isinstance(loaded, ClipBertForPreTraining):
        raise ClipBertError(f"{model}: holds a ClipBertForPreTraining: {PRETRAINED}")
    fitting = [name for name, (kind, _) in PIPELINES.items() if isinstance(loaded, kind)]
    if not fitting or (task is not None and task not in fitting):
        raise ClipBertError(
            f"{model}: holds a {type(loaded).__name__}, which is for {' or '.join(fitting) or 'no pipeline'}: expected "
            f"a model for {task or ' or '.join(PIPELINES)}. Give that task, or another folder."
        )
    try:
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise ClipBertError(
            f"device is {device!r}: the model cannot go there ({first_line(error)}). Give one that torch has, as cpu."
        ) from error
    return PIPELINES[task or fitting[0]][1](loaded, ClipBertProcessor.from_pretrained(model), frames)
