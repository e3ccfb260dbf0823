"""Pipelines: `pipeline(task, folder)` returns an object to call with videos and texts.

The model's class decides the class of the pipeline, so every task whose objective trains that model has it; a model of
another package gets one with `@register_pipeline`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbert.config.schema import FramesParams
from clipbert.config.tasks import CaptioningParams, check_task, task_names
from clipbert.errors import ClipBertError, first_line
from clipbert.inference.base import PIPELINES, OnError, Pipeline, Row, register_pipeline
from clipbert.inference.results import Results
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
from clipbert.model.confidence import read_confidence
from clipbert.model.processor_inputs import check_videos
from clipbert.tasks import task_class
from clipbert.tasks.scoring import (
    answer_probabilities,
    match_scores,
    matched_probabilities,
    option_probabilities,
    option_texts,
    pair_similarity,
    rank_gallery,
    write_captions,
)


@register_pipeline(ClipBertForRetrieval)
class RetrievalPipeline(Pipeline):
    """Video search: `search(text, videos)` returns the videos, best match first."""

    def __call__(
        self, text: str, videos: Sequence[Any], rerank: int | None = None, on_error: OnError = "raise"
    ) -> list[Row]:
        """Return `[{"index", "video", "score"}]`, best first; `video` is the element of `videos`.

        The score is the cross-encoder's log odds of a match, plus the dual encoder's similarity where the model has
        one.

        Args:
            rerank: rerank and return only this many videos, those that the dual encoder ranks first, as evaluation
                does with `evaluate.rerank_top_k`; None: all.
            on_error: "raise" the first error of a video; "skip" returns the videos that cannot be read last, with a
                `score` of None and the error as a text in the column "error", which the others have as None.

        Raises:
            ClipBertError: a file cannot be read, or none of them with "skip".
            ValueError: no videos, an empty text, frames of a wrong shape, or `rerank` below 1 or without a dual
                encoder.
        """
        if rerank is not None and rerank < 1:
            raise ValueError(f"rerank is {rerank}: expected at least 1.")
        check_videos(videos, "videos")
        tokens = self.tokenize([text])
        found = self.encode_each(videos, on_error=on_error)
        good = [index for index, embeds in enumerate(found) if isinstance(embeds, Tensor)]
        failed = {index: str(error) for index, error in enumerate(found) if not isinstance(error, Tensor)}
        if not good:
            raise ClipBertError(f"none of {len(videos)} videos can be read; the first: {failed[0]}")
        embeds = torch.stack([each for each in found if isinstance(each, Tensor)])
        rows = [
            {"index": good[place], "video": videos[good[place]], "score": score}
            for place, score in self._ranked(embeds, tokens, rerank)
        ]
        if on_error == "skip":
            rows = [row | {"error": None} for row in rows]
            rows += [
                {"index": index, "video": videos[index], "score": None, "error": error}
                for index, error in failed.items()
            ]
        return Results(rows, {"text": text}, read_frames=self.few_frames)

    @torch.inference_mode()
    def _ranked(self, embeds: Tensor, tokens: tuple[Tensor, Tensor], rerank: int | None) -> list[tuple[int, float]]:
        """Return (position, score) of the videos (B, K, V, hidden) for a text, best first."""
        vectors = None if self.model.contrast is None else self.model.get_video_features(embeds)
        found = rank_gallery(self.model, embeds, vectors, *tokens, self.batch_size, rerank)
        places, scores = found.reranked.tolist(), found.scores.tolist()
        return [(places[i], scores[i]) for i in found.scores.argsort(descending=True, stable=True).tolist()]

    @torch.inference_mode()
    def match(self, visual_embeds: Tensor, texts: Sequence[str]) -> list[float]:
        """Return the score of each text with one video (1, K, V, hidden), as `__call__` gives it."""
        scores: list[float] = []
        for seen, input_ids, attention_mask in self._batches(visual_embeds, texts):
            similarity = pair_similarity(self.model, visual_embeds, input_ids, attention_mask)
            scores += match_scores(self.model, seen, input_ids, attention_mask, similarity, self.batch_size).tolist()
        return scores

    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        return [{"score": score} for score in self.match(visual_embeds, [row["text"] for row in rows])]


@register_pipeline(ClipBertForOpenQA)
class OpenQAPipeline(Pipeline):
    """Question answering: `ask(video, question)` returns the most probable answers of the vocabulary."""

    def __call__(self, video: Any, question: str, top: int = 5) -> list[Row]:
        """Return `[{"answer", "score", "confidence"}]`, `top` of them at most, best first.

        Scores are the model's probabilities; `confidence` is calibrated, and missing where the model folder has no
        calibration.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an empty question, `top` below 1, or frames of a wrong shape.
        """
        if top < 1:
            raise ValueError(f"top is {top}: expected at least 1.")
        # the calibration needs the probabilities of all answers
        everything = max(top, len(self.model.config.answers))
        answers = self.with_confidence(self.answer(self.encode([video]), [question], everything)[0])[:top]
        return Results(answers, {"question": question}, video, self.few_frames)

    @torch.inference_mode()
    def answer(self, visual_embeds: Tensor, questions: Sequence[str], top: int = 5) -> list[list[Row]]:
        """Return what `__call__` gives for each question about one video (1, K, V, hidden)."""
        found = []
        for batch in self._batches(visual_embeds, questions):
            best = answer_probabilities(self.model, *batch).sort(dim=1, descending=True, stable=True)
            for scores, answers in zip(best.values[:, :top].tolist(), best.indices[:, :top].tolist(), strict=True):
                named = zip(answers, scores, strict=True)
                found.append([{"answer": self.model.config.answers[i], "score": score} for i, score in named])
        return found

    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        return [
            {
                "answer": answers[0]["answer"],
                "confidence": answers[0]["score"],
                "top_answers": [answer["answer"] for answer in answers],
                "top_confidences": [answer["score"] for answer in answers],
            }
            for answers in self.answer(visual_embeds, [row["question"] for row in rows], params["top_k"])
        ]


@register_pipeline(ClipBertForMultipleChoice)
class MultipleChoicePipeline(Pipeline):
    """Multiple choice: `choose(video, question, options)` returns the options, most probable first."""

    def __call__(self, video: Any, question: str, options: Sequence[str]) -> list[Row]:
        """Return `[{"option", "answer", "score", "confidence"}]`, best first: position, text and probability.

        `confidence` is calibrated, and missing where the model folder has no calibration.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: no options, an empty question, or frames of a wrong shape.
        """
        if isinstance(options, str) or len(options) == 0:
            raise ValueError(f"options is {options!r}: expected a list of at least one text.")
        chosen = self.choose(self.encode([video]), question, options)
        return Results(self.with_confidence(chosen), {"question": question}, video, self.few_frames)

    @torch.inference_mode()
    def choose(self, visual_embeds: Tensor, question: str, options: Sequence[str]) -> list[Row]:
        """Return what `__call__` gives for a question about one video (1, K, V, hidden)."""
        tokens = self.tokenize(option_texts(question, options))
        counts = torch.tensor([len(options)], device=self.model.device)
        scores = option_probabilities(self.model, visual_embeds, *tokens, counts)[0]
        order = scores.argsort(descending=True, stable=True).tolist()
        return [{"option": i, "answer": options[i], "score": float(scores[i])} for i in order]

    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        answers = []
        for row in rows:
            found = self.choose(visual_embeds, row["question"], row["options"])
            scores = {answer["option"]: answer["score"] for answer in found}
            answers.append(
                {
                    "answer": found[0]["answer"],
                    "option": found[0]["option"],
                    "confidence": found[0]["score"],
                    "option_confidences": [scores[position] for position in range(len(found))],
                }
            )
        return answers


@register_pipeline(ClipBertForCaptioning)
class CaptioningPipeline(Pipeline):
    """Captioning: `describe(video)` returns a generated caption."""

    def __call__(self, video: Any, **search: Any) -> list[Row]:
        """Return `[{"caption", "score"}]` with one caption and its log-probability.

        Args:
            search: `beams`, `max_length`, `length_penalty` and `no_repeat_ngram` of `Decoding`. The others are as in
                evaluation: stored in the model folder, or else the defaults of params.yaml's `tasks.captioning`.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: an unknown search option, or one out of its range; frames of a wrong shape.
        """
        generation = self.generation(search)
        return Results(self.describe(self.encode([video]), generation), {}, video, self.few_frames)

    def generation(self, search: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of `Decoding`: those of `search`, and the model folder's for the others.

        Raises:
            ValueError: an unknown option, or one out of its range.
        """
        usual = CaptioningParams().generation() | (self.processor.generation or {})
        if unknown := sorted(search.keys() - usual.keys()):
            raise ValueError(f"{unknown[0]} is not a search option: expected some of {', '.join(usual)}.")
        longest = self.model.config.max_position_embeddings
        if search.get("max_length", 0) > longest:
            raise ValueError(
                f"max_length is {search['max_length']}: expected at most {longest}, config.max_position_embeddings."
            )
        chosen = usual | search
        Decoding(**chosen)
        return chosen

    @torch.inference_mode()
    def describe(self, visual_embeds: Tensor, generation: dict[str, Any]) -> list[Row]:
        """Return what `__call__` gives for one video (1, K, V, hidden)."""
        words = self.processor.tokenizer
        ids, scores = write_captions(self.model, visual_embeds, words.cls_token_id, words.sep_token_id, generation)
        return [{"caption": self.tokenize.decode(ids)[0], "score": scores[0]}]

    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        (caption,) = self.describe(visual_embeds, _search_of(params))
        return [dict(caption) for _ in rows]

    def request_params(self, defaults: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request; a default `max_length` beyond the model's positions is lowered."""
        longest = self.model.config.max_position_embeddings
        chosen = defaults | {"max_length": min(defaults["max_length"], longest)} | requested
        self.generation(_search_of(chosen))
        return chosen


def _search_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return the search options among the parameters of a request."""
    return {name: value for name, value in params.items() if name != "clips"}


@register_pipeline(ClipBertForPreTraining)
class MatchingPipeline(Pipeline):
    """Image-text matching by a pretrained model: `match(image, texts)` returns how well each text matches."""

    def __call__(self, video: Any, texts: Sequence[str]) -> list[Row]:
        """Return `[{"index", "text", "score"}]`, best first; scores are probabilities that text and image match.

        Raises:
            ClipBertError: the file cannot be read.
            ValueError: no texts, an empty text, or frames of a wrong shape.
        """
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"texts is {texts!r}: expected a list of at least one text.")
        scores = self.match(self.encode([video]), texts)
        order = sorted(range(len(texts)), key=lambda i: -scores[i])
        rows = [{"index": i, "text": texts[i], "score": scores[i]} for i in order]
        return Results(rows, {}, video, self.few_frames)

    @torch.inference_mode()
    def match(self, visual_embeds: Tensor, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text matches the image (1, K, V, hidden)."""
        scores: list[float] = []
        for seen, input_ids, attention_mask in self._batches(visual_embeds, texts):
            out = self.model(visual_embeds=seen, input_ids=input_ids, attention_mask=attention_mask)
            scores += matched_probabilities(self.model, out.itm_logits).tolist()
        return scores

    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        return [{"score": score} for score in self.match(visual_embeds, [row["text"] for row in rows])]


def pipeline(
    task: str | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    frames: FramesParams | None = None,
    clips: int | None = None,
) -> Any:
    """Return the pipeline of a model folder, such as `artifacts/models/retrieval`.

    Args:
        task: the name of a task; None: the first task whose model the folder holds.
        model: the folder.
        device: where to run; None: cuda where there is one, otherwise cpu.
        frames: how candidate frames are taken from files; None: as stored in the folder by its training, or else the
            defaults of params.yaml's section `frames`.
        clips: uniform clips of a video that are shown; None: the folder's number, that of evaluation.

    Raises:
        ClipBertError: an unknown task, a model of another task, an incomplete model folder, or an unavailable device.
    """
    if task is not None:
        check_task(task)
    if model is None:
        raise ClipBertError("model is missing: expected a model folder, such as artifacts/models/retrieval.")
    if clips is not None and (isinstance(clips, bool) or not isinstance(clips, int) or clips < 1):
        raise ClipBertError(f"clips is {clips!r}: expected an integer of 1 or more.")
    loaded = load(model)
    name = _task_of(loaded, task, model)
    try:
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise ClipBertError(
            f"device is {device!r}: the model cannot go there ({first_line(error)}). Give one that torch has, as cpu."
        ) from error
    settings = {} if clips is None else {"clips": clips}
    processor = ClipBertProcessor.from_pretrained(model, **settings)
    return PIPELINES[type(loaded)](
        loaded, processor, frames, task=name, folder=model, confidence=read_confidence(model)
    )


def _task_of(loaded: Any, task: str | None, folder: str | Path) -> str:
    """Return `task`, or the first task whose model class is that of a loaded model.

    Raises:
        ClipBertError: the model is of another task, of no task, or of a class without a pipeline.
    """
    if task is not None and type(loaded) is task_class(task).objective_class.model_class and type(loaded) in PIPELINES:
        return task
    fitting = [name for name in task_names() if type(loaded) is task_class(name).objective_class.model_class]
    if task is None and fitting and type(loaded) in PIPELINES:
        return fitting[0]
    raise ClipBertError(
        f"{folder}: holds a {type(loaded).__name__}, which is for {' or '.join(fitting) or 'no pipeline'}: expected "
        f"a model for {task or ' or '.join(task_names())}. Give that task, or another folder."
    )
