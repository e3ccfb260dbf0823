"""Answers to requests about different videos in common forward passes, for servers and tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clipbert.inference.base import Pipeline, Row
from clipbert.inference.pipelines import (
    CaptioningPipeline,
    MatchingPipeline,
    MultipleChoicePipeline,
    OpenQAPipeline,
    RetrievalPipeline,
)
from clipbert.tasks.scoring import (
    answer_probabilities,
    match_scores,
    matched_probabilities,
    option_probabilities,
    option_texts,
    write_captions,
)


@torch.inference_mode()
def answer_batch(
    pipeline: Pipeline, visual_embeds: Sequence[Tensor], asked: Sequence[dict[str, Any]]
) -> list[list[Row]]:
    """Return for each request what the pipeline's call returns for it, with its confidence.

    Args:
        visual_embeds: the visual tokens (K, V, hidden) of each request's video.
        asked: the arguments of each request: `question` and `top` of open_qa and image_qa, `question` and `options` of
            multiple_choice, `texts` of retrieval and pretrain; nothing for captioning.

    Raises:
        ValueError: an empty text.
    """
    seen = torch.stack(list(visual_embeds))
    if isinstance(pipeline, OpenQAPipeline):
        return _answers(pipeline, seen, asked)
    if isinstance(pipeline, MultipleChoicePipeline):
        return _choices(pipeline, seen, asked)
    if isinstance(pipeline, CaptioningPipeline):
        return _captions(pipeline, seen)
    assert isinstance(pipeline, RetrievalPipeline | MatchingPipeline)
    return _matches(pipeline, seen, asked)


def _answers(pipeline: OpenQAPipeline, seen: Tensor, asked: Sequence[dict[str, Any]]) -> list[list[Row]]:
    found = []
    names = pipeline.model.config.answers
    for start in range(0, len(asked), pipeline.batch_size):
        some = asked[start : start + pipeline.batch_size]
        tokens = pipeline.tokenize([each["question"] for each in some])
        probabilities = answer_probabilities(pipeline.model, seen[start : start + len(some)], *tokens)
        best = probabilities.sort(dim=1, descending=True, stable=True)
        for each, scores, order in zip(some, best.values.tolist(), best.indices.tolist(), strict=True):
            rows = [{"answer": names[i], "score": score} for i, score in zip(order, scores, strict=True)]
            # the calibration needs the probabilities of all answers
            found.append(pipeline.with_confidence(rows)[: each["top"]])
    return found


def _choices(pipeline: MultipleChoicePipeline, seen: Tensor, asked: Sequence[dict[str, Any]]) -> list[list[Row]]:
    found = []
    for some in _groups([len(each["options"]) for each in asked], pipeline.batch_size):
        requests = [asked[number] for number in some]
        tokens = pipeline.tokenize(
            [text for each in requests for text in option_texts(each["question"], each["options"])]
        )
        counts = torch.tensor([len(each["options"]) for each in requests], device=pipeline.model.device)
        scores = option_probabilities(pipeline.model, seen[some.start : some.stop], *tokens, counts)
        for each, row in zip(requests, scores, strict=True):
            own = row[: len(each["options"])]
            order = own.argsort(descending=True, stable=True).tolist()
            rows = [{"option": i, "answer": each["options"][i], "score": float(own[i])} for i in order]
            found.append(pipeline.with_confidence(rows))
    return found


def _captions(pipeline: CaptioningPipeline, seen: Tensor) -> list[list[Row]]:
    words = pipeline.processor.tokenizer
    generation = pipeline.generation({})
    ids, scores = write_captions(pipeline.model, seen, words.cls_token_id, words.sep_token_id, generation)
    texts = pipeline.tokenize.decode(ids)
    return [[{"caption": text, "score": score}] for text, score in zip(texts, scores, strict=True)]


def _matches(
    pipeline: RetrievalPipeline | MatchingPipeline, seen: Tensor, asked: Sequence[dict[str, Any]]
) -> list[list[Row]]:
    texts = [text for each in asked for text in each["texts"]]
    videos = torch.tensor([number for number, each in enumerate(asked) for _ in each["texts"]], device=seen.device)
    scores: list[float] = []
    for start in range(0, len(texts), pipeline.batch_size):
        some = slice(start, start + pipeline.batch_size)
        scores += _pair_scores(pipeline, seen, videos[some], texts[some]).tolist()
    own = iter(scores)
    found = []
    for each in asked:
        rows = [{"index": i, "text": text, "score": next(own)} for i, text in enumerate(each["texts"])]
        found.append(sorted(rows, key=lambda row: -row["score"]))
    return found


def _pair_scores(
    pipeline: RetrievalPipeline | MatchingPipeline, seen: Tensor, videos: Tensor, texts: Sequence[str]
) -> Tensor:
    """Return the scores (N,) of N texts, each with the video (B, K, V, hidden) at its position `videos` (N,)."""
    model = pipeline.model
    input_ids, mask = pipeline.tokenize(texts)
    if isinstance(pipeline, MatchingPipeline):
        out = model(visual_embeds=seen[videos], input_ids=input_ids, attention_mask=mask)
        return matched_probabilities(model, out.itm_logits)
    similarity = None
    if model.contrast is not None:
        all_pairs = model.similarity(model.get_text_features(input_ids, mask), model.get_video_features(seen))
        similarity = all_pairs.gather(1, videos[:, None])[:, 0].float()
    return match_scores(model, seen[videos], input_ids, mask, similarity, pipeline.batch_size)


def _groups(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Yield consecutive positions whose sizes sum to at most `most`, or a single one that is larger."""
    start, total = 0, 0
    for number, size in enumerate(sizes):
        if number > start and total + size > most:
            yield range(start, number)
            start, total = number, 0
        total += size
    if sizes:
        yield range(start, len(sizes))
