"""One line to use a trained model: `pipeline(task, folder)` gives an object to call with videos and texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipbert.config.schema import FramesParams
from clipbert.config.tasks import CaptioningParams
from clipbert.errors import ClipBertError, first_line
from clipbert.inference.results import SHOWN_FRAMES, Results
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
from clipbert.sampling.candidates import fit
from clipbert.sampling.clips import uniform_clips
from clipbert.tasks.scoring import (
    ProcessorTokens,
    answer_probabilities,
    encode_clips,
    match_scores,
    matched_probabilities,
    option_probabilities,
    option_texts,
    pair_similarity,
    rank_gallery,
    write_captions,
)
from clipbert.video.still_images import upright_rgb

BATCH_SIZE = 256
PRETRAINED = (
    "a pretrained model is a start for other trainings and has no pipeline. Train one of them from it with "
    "`model.init_from: FOLDER` in params.yaml, or use its heads through clipbert.model.weights.load(FOLDER)."
)


@dataclass(frozen=True)
class GivenFrames:
    """The candidate frames of a video that was handed over, resized as the frames of a file are."""

    images: Any  # (N, H, W, 3) uint8 RGB, or a list of PIL images
    size: int

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]]:
        """Return the frames `indices`.

        Raises:
            ValueError: a PIL image cannot be read.
        """
        chosen = [self.images[index] for index in indices]
        try:
            return [fit(upright_rgb(image) if isinstance(image, Image.Image) else image, self.size) for image in chosen]
        except (OSError, ValueError, SyntaxError) as error:  # PIL decodes an image when its pixels are asked for
            raise ValueError(f"the video holds an image that cannot be read: {error}.") from error


class Pipeline:
    """A model in evaluation mode and its processor; videos are paths, file bytes, frame arrays or PIL images.

    Scores are those of evaluation: both call `clipbert.tasks.scoring`.

    Attributes:
        model, processor: as loaded from the folder; `processor.clips` is how many clips of a video are shown.
        frames: how candidate frames are taken from files.
        batch_size: text-video pairs in one forward pass.
        task, folder: the names that `pipeline` was given or found; None for a pipeline made otherwise.
    """

    def __init__(
        self,
        model: Any,
        processor: ClipBertProcessor,
        frames: FramesParams | None = None,
        batch_size: int = BATCH_SIZE,
        task: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.task, self.folder = task, folder
        self.model = model
        self.processor = processor
        self.frames = processor.candidates if frames is None else frames
        self.batch_size = batch_size
        self.tokenize = ProcessorTokens(processor, model.device)

    def __repr__(self) -> str:
        config = self.model.config
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"{type(self).__name__}(task={self.task!r}, folder={str(self.folder)!r}, model={type(self.model).__name__} "
            f"with {millions:.1f} M parameters, image_size={config.image_size}, clips={self.processor.clips} of "
            f"{self.processor.frames_per_clip} frames, device={str(self.model.device)!r})"
        )

    def few_frames(self, video: Any) -> Sequence[NDArray[np.uint8]]:
        """Return a few frames of a video to show, evenly spread, each (H, W, 3) uint8 RGB.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: frames of a wrong shape.
        """
        images = self.processor.read_video(video, self.frames)
        chosen = uniform_clips(len(images), min(SHOWN_FRAMES, len(images)), 1).flatten()
        return GivenFrames(images, self.frames.size).read(chosen)

    def encode(self, videos: Sequence[Any], clips: int | None = None) -> Tensor:
        """Return the visual tokens (B, K, V, hidden) of videos; they serve any number of texts.

        Args:
            clips: uniform clips of each video; None: `processor.clips`.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: no videos, or frames of a wrong shape.
        """
        check_videos(videos, "videos")
        embeds: list[Tensor] = []
        for number, video in enumerate(videos):
            images = self.processor.read_video(video, self.frames, number)
            given = GivenFrames(images, self.frames.size)
            embeds += encode_clips(self.model, self.processor, [given], clips or self.processor.clips)
        return torch.stack(embeds)

    def _batches(self, visual_embeds: Tensor, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (visual_embeds (N, K, V, hidden), input_ids, attention_mask) of texts about one video, N at a time."""
        for start in range(0, len(texts), self.batch_size):
            input_ids, attention_mask = self.tokenize(texts[start : start + self.batch_size])
            yield visual_embeds.expand(len(input_ids), -1, -1, -1), input_ids, attention_mask


class RetrievalPipeline(Pipeline):
    """`search(text, videos)`: the videos, best match first."""

    @torch.inference_mode()
    def __call__(self, text: str, videos: Sequence[Any], rerank: int | None = None) -> list[dict[str, Any]]:
        """Return `[{"index", "video", "score"}]`, best first; `video` is what was given.

        The score is the cross-encoder's log odds of a match, plus the dual encoder's similarity where the model has
        one.

        Args:
            rerank: score only this many videos, those that the dual encoder ranks first, and return no others, as
                evaluation does with `evaluate.rerank_top_k`; None: all.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: no videos, an empty text, frames of a wrong shape, or `rerank` below 1 or without a dual
                encoder.
        """
        if rerank is not None and rerank < 1:
            raise ValueError(f"rerank is {rerank}: expected at least 1.")
        check_videos(videos, "videos")
        tokens = self.tokenize([text])
        embeds = self.encode(videos)
        vectors = None if self.model.contrast is None else self.model.get_video_features(embeds)
        found = rank_gallery(self.model, embeds, vectors, *tokens, self.batch_size, rerank)
        order = found.scores.argsort(descending=True, stable=True).tolist()
        places = found.judged.tolist()
        rows = [{"index": places[i], "video": videos[places[i]], "score": float(found.scores[i])} for i in order]
        return Results(rows, {"text": text}, read_frames=self.few_frames)

    @torch.inference_mode()
    def match(self, visual_embeds: Tensor, texts: Sequence[str]) -> list[float]:
        """Return the score of each text with one video (1, K, V, hidden), as `__call__` gives it."""
        scores: list[float] = []
        for seen, input_ids, attention_mask in self._batches(visual_embeds, texts):
            similarity = pair_similarity(self.model, visual_embeds, input_ids, attention_mask)
            scores += match_scores(self.model, seen, input_ids, attention_mask, similarity, self.batch_size).tolist()
        return scores


class OpenQAPipeline(Pipeline):
    """`ask(video, question)`: the likeliest answers."""

    def __call__(self, video: Any, question: str, top: int = 5) -> list[dict[str, Any]]:
        """Return `[{"answer", "score"}]`, `top` of them at most, best first; scores are probabilities.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an empty question, `top` below 1, or frames of a wrong shape.
        """
        if top < 1:
            raise ValueError(f"top is {top}: expected at least 1.")
        answers = self.answer(self.encode([video]), [question], top)[0]
        return Results(answers, {"question": question}, video, self.few_frames)

    @torch.inference_mode()
    def answer(self, visual_embeds: Tensor, questions: Sequence[str], top: int = 5) -> list[list[dict[str, Any]]]:
        """Return what `__call__` gives for each question about one video (1, K, V, hidden)."""
        found = []
        for batch in self._batches(visual_embeds, questions):
            best = answer_probabilities(self.model, *batch).sort(dim=1, descending=True, stable=True)
            for scores, answers in zip(best.values[:, :top].tolist(), best.indices[:, :top].tolist(), strict=True):
                named = zip(answers, scores, strict=True)
                found.append([{"answer": self.model.config.answers[i], "score": score} for i, score in named])
        return found


class MultipleChoicePipeline(Pipeline):
    """`choose(video, question, options)`: the options, likeliest first."""

    def __call__(self, video: Any, question: str, options: Sequence[str]) -> list[dict[str, Any]]:
        """Return `[{"option", "answer", "score"}]`, best first: position, text and probability of each option.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: no options, an empty question, or frames of a wrong shape.
        """
        if isinstance(options, str) or len(options) == 0:
            raise ValueError(f"options is {options!r}: expected a list of at least one text.")
        chosen = self.choose(self.encode([video]), question, options)
        return Results(chosen, {"question": question}, video, self.few_frames)

    @torch.inference_mode()
    def choose(self, visual_embeds: Tensor, question: str, options: Sequence[str]) -> list[dict[str, Any]]:
        """Return what `__call__` gives for a question about one video (1, K, V, hidden)."""
        tokens = self.tokenize(option_texts(question, options))
        counts = torch.tensor([len(options)], device=self.model.device)
        scores = option_probabilities(self.model, visual_embeds, *tokens, counts)[0]
        order = scores.argsort(descending=True, stable=True).tolist()
        return [{"option": i, "answer": options[i], "score": float(scores[i])} for i in order]


class CaptioningPipeline(Pipeline):
    """`describe(video)`: a sentence."""

    def __call__(self, video: Any, **search: Any) -> list[dict[str, Any]]:
        """Return `[{"caption", "score"}]`, the one caption that the search finds and its log-probability.

        `search`: `beams`, `max_length`, `length_penalty`, `no_repeat_ngram`, as `Decoding` has them; what is not given
        is as in evaluation: stored in the model folder, or else the defaults of params.yaml's `tasks.captioning`.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an option of the search that there is not, or that is out of its range; frames of a wrong shape.
        """
        generation = self.generation(search)
        return Results(self.describe(self.encode([video]), generation), {}, video, self.few_frames)

    def generation(self, search: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of `Decoding`: those of `search`, and the model folder's for the others.

        Raises:
            ValueError: an unknown option, or one out of its range.
        """
        usual = CaptioningParams().search() | (self.processor.generation or {})
        if unknown := sorted(search.keys() - usual.keys()):
            raise ValueError(f"{unknown[0]} is no option of the search: expected some of {', '.join(usual)}.")
        longest = self.model.config.max_position_embeddings
        if search.get("max_length", 0) > longest:
            raise ValueError(
                f"max_length is {search['max_length']}: expected at most {longest}, config.max_position_embeddings."
            )
        chosen = usual | search
        Decoding(**chosen)
        return chosen

    @torch.inference_mode()
    def describe(self, visual_embeds: Tensor, generation: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what `__call__` gives for one video (1, K, V, hidden)."""
        words = self.processor.tokenizer
        ids, scores = write_captions(self.model, visual_embeds, words.cls_token_id, words.sep_token_id, generation)
        return [{"caption": self.tokenize.decode(ids)[0], "score": scores[0]}]


class MatchingPipeline(Pipeline):
    """Whether texts match an image, by a pretrained model; only the MLflow model uses it."""

    @torch.inference_mode()
    def match(self, visual_embeds: Tensor, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text matches the image (1, K, V, hidden)."""
        scores: list[float] = []
        for seen, input_ids, attention_mask in self._batches(visual_embeds, texts):
            out = self.model(visual_embeds=seen, input_ids=input_ids, attention_mask=attention_mask)
            scores += matched_probabilities(self.model, out.itm_logits).tolist()
        return scores


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
    clips: int | None = None,
) -> Any:
    """Return the pipeline of a model folder, such as `artifacts/models/retrieval`.

    Args:
        task: retrieval, open_qa, image_qa, multiple_choice or captioning; None: what the folder's model is for.
        model: the folder.
        device: where to run; None: cuda where there is one, otherwise cpu.
        frames: how candidate frames are taken from files; None: as stored in the folder by its training, or else the
            defaults of params.yaml's section `frames`.
        clips: uniform clips of a video that are shown; None: the folder's number, that of evaluation.

    Raises:
        ClipBertError: an unknown task, a model of another task, a folder that is no complete model, or no such device.
    """
    if task == "pretrain":
        raise ClipBertError(f"task is 'pretrain': {PRETRAINED}")
    if task is not None and task not in PIPELINES:
        raise ClipBertError(f"task is {task!r}: expected one of {', '.join(PIPELINES)}.")
    if model is None:
        raise ClipBertError("model is missing: expected a model folder, such as artifacts/models/retrieval.")
    if clips is not None and (isinstance(clips, bool) or not isinstance(clips, int) or clips < 1):
        raise ClipBertError(f"clips is {clips!r}: expected an integer of 1 or more.")
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
    settings = {} if clips is None else {"clips": clips}
    name = task or fitting[0]
    processor = ClipBertProcessor.from_pretrained(model, **settings)
    return PIPELINES[name][1](loaded, processor, frames, task=name, folder=model)
