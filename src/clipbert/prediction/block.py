"""The predictions of a block of rows: each video is decoded and encoded once, texts are scored in batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbert.inference.base import INPUT_ERRORS, GivenFrames, Pipeline
from clipbert.inference.pipelines import CaptioningPipeline, MultipleChoicePipeline, OpenQAPipeline, RetrievalPipeline
from clipbert.prediction.table import ERROR, RESULTS, options_of, text_of, video_of
from clipbert.sampling.decoder_pool import decoder_pool
from clipbert.tasks.scoring import (
    VIDEOS_AT_ONCE,
    answer_probabilities,
    clip_pixels,
    match_scores,
    matched_probabilities,
    option_probabilities,
    option_texts,
    write_captions,
)

Row = Mapping[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """Rows of a table that are predicted together.

    Attributes:
        number: of the block in the table.
        places: the positions of the rows in the table.
        rows: their values.
    """

    number: int
    places: tuple[int, ...]
    rows: tuple[Row, ...]


def make_blocks(rows: Sequence[Row], videos_in_block: int) -> list[Block]:
    """Return the rows in blocks of a number of videos; the rows of a video are together, in the table's order."""
    by_video: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_video.setdefault(str(row.get("video")), []).append(place)
    groups = list(by_video.values())
    blocks = []
    for start in range(0, len(groups), videos_in_block):
        places = tuple(place for group in groups[start : start + videos_in_block] for place in group)
        blocks.append(Block(start // videos_in_block, places, tuple(rows[place] for place in places)))
    return blocks


class BlockPredictor:
    """Predictions of blocks by one pipeline; the videos of the next block are decoded during the work on one.

    Args:
        pipeline: of a trained task.
        media: the folder of relative paths.
    """

    def __init__(self, pipeline: Pipeline, media: Path) -> None:
        self.pipeline, self.media = pipeline, media
        assert pipeline.task is not None
        self.task = pipeline.task
        workers = decoder_pool(pipeline.frames.max_worker_mb).workers
        self._threads = ThreadPoolExecutor(workers + 1, thread_name_prefix="decode")

    def close(self) -> None:
        """Stop decoding."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def predict(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, list[Result]]]:
        """Yield each block with the results of its rows, each with all columns of `RESULTS` and `ERROR`."""
        ahead = self._decode(blocks[0]) if blocks else {}
        for number, block in enumerate(blocks):
            decoding = ahead
            ahead = self._decode(blocks[number + 1]) if number + 1 < len(blocks) else {}
            yield block, self._results(block, decoding)

    def _decode(self, block: Block) -> dict[str, "Future[Tensor]"]:
        """Start to decode the videos of a block, and return the pixels (K, T, 3, S, S) that will come, by video."""
        found: dict[str, Future[Tensor]] = {}
        for row in block.rows:
            try:
                video = video_of(row, self.media)
            except ValueError:
                continue  # reported with its row
            if _key(video) not in found:
                found[_key(video)] = self._threads.submit(self._pixels, video)
        return found

    def _pixels(self, video: dict[str, Any]) -> Tensor:
        whole = video["video"] if len(video) == 1 else video
        pipeline = self.pipeline
        images = pipeline.processor.read_video(whole, pipeline.frames)
        return clip_pixels(pipeline.processor, GivenFrames(images, pipeline.frames.size), pipeline.processor.clips)

    @torch.inference_mode()
    def _results(self, block: Block, decoding: dict[str, "Future[Tensor]"]) -> list[Result]:
        """Return the results of a block's rows; a row or a video that cannot be used gets its error."""
        results: list[Result] = [dict.fromkeys((*RESULTS[self.task], ERROR)) for _ in block.rows]
        good: list[int] = []
        texts: list[Any] = []
        keys: list[str] = []
        embeds, failed = self._encode(decoding)
        for place, row in enumerate(block.rows):
            try:
                key = _key(video_of(row, self.media))
                text = self._text(row)
            except ValueError as error:
                results[place][ERROR] = str(error)
                continue
            if key in failed:
                results[place][ERROR] = failed[key]
                continue
            good.append(place)
            keys.append(key)
            texts.append(text)
        if good:
            for place, found in zip(good, self._answers([embeds[key] for key in keys], texts), strict=True):
                results[place] |= found
        return results

    def _encode(self, decoding: dict[str, "Future[Tensor]"]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the visual tokens (K, V, hidden) of the videos that can be decoded, and the errors of the others."""
        pixels: dict[str, Tensor] = {}
        failed: dict[str, str] = {}
        for key, future in decoding.items():
            try:
                pixels[key] = future.result()
            except INPUT_ERRORS as error:
                failed[key] = str(error)
        model = self.pipeline.model
        embeds: dict[str, Tensor] = {}
        names = list(pixels)
        for start in range(0, len(names), VIDEOS_AT_ONCE):
            some = names[start : start + VIDEOS_AT_ONCE]
            encoded = model.encode_video(torch.stack([pixels[name] for name in some]).to(model.device))
            embeds |= dict(zip(some, encoded, strict=True))
        return embeds, failed

    def _text(self, row: Row) -> Any:
        """Return what the model reads of a row.

        Raises:
            ValueError: it is missing or empty.
        """
        if isinstance(self.pipeline, CaptioningPipeline):
            return None
        if isinstance(self.pipeline, MultipleChoicePipeline):
            return text_of(row, "question"), options_of(row)
        return text_of(row, "question" if isinstance(self.pipeline, OpenQAPipeline) else "text")

    def _answers(self, embeds: list[Tensor], texts: list[Any]) -> list[Result]:
        """Return the results of rows with their visual tokens and texts, in batches of similar length."""
        order = sorted(range(len(texts)), key=lambda place: len(str(texts[place])))
        found: list[Result] = [{} for _ in texts]
        for start in range(0, len(order), self.pipeline.batch_size):
            some = order[start : start + self.pipeline.batch_size]
            stacked = torch.stack([embeds[place] for place in some])
            batch = self._batch(stacked, [texts[place] for place in some])
            for place, result in zip(some, batch, strict=True):
                found[place] = result
        return found

    def _batch(self, embeds: Tensor, texts: list[Any]) -> list[Result]:
        """Return the results of texts, each with its visual tokens (N, K, V, hidden)."""
        pipeline = self.pipeline
        model = pipeline.model
        if isinstance(pipeline, CaptioningPipeline):
            words = pipeline.processor.tokenizer
            ids, scores = write_captions(model, embeds, words.cls_token_id, words.sep_token_id, pipeline.generation({}))
            captions = pipeline.tokenize.decode(ids)
            return [{"caption": text, "score": score} for text, score in zip(captions, scores, strict=True)]
        if isinstance(pipeline, MultipleChoicePipeline):
            flat = [text for question, options in texts for text in option_texts(question, options)]
            counts = torch.tensor([len(options) for _, options in texts], device=model.device)
            rows = option_probabilities(model, embeds, *pipeline.tokenize(flat), counts).tolist()
            return [
                self._best(options, scores[: len(options)], "option")
                for (_, options), scores in zip(texts, rows, strict=True)
            ]
        tokens = pipeline.tokenize(texts)
        if isinstance(pipeline, OpenQAPipeline):
            answers = model.config.answers
            return [self._best(answers, scores) for scores in answer_probabilities(model, embeds, *tokens).tolist()]
        if isinstance(pipeline, RetrievalPipeline):
            similarity = None
            if model.contrast is not None:
                vectors = model.get_text_features(*tokens), model.get_video_features(embeds)
                similarity = model.similarity(*vectors).diagonal().float()
            matches = match_scores(model, embeds, *tokens, similarity, pipeline.batch_size)
            return [{"score": score} for score in matches.tolist()]
        out = model(visual_embeds=embeds, input_ids=tokens[0], attention_mask=tokens[1])
        return [{"score": score} for score in matched_probabilities(model, out.itm_logits).tolist()]

    def _best(self, answers: Sequence[str], scores: list[float], position: str | None = None) -> Result:
        """Return the most probable answer with its score and its calibrated confidence, where there is one."""
        rows = self.pipeline.with_confidence([{"score": score} for score in scores])
        best = max(range(len(scores)), key=scores.__getitem__)
        found = {"answer": answers[best], "score": scores[best], "confidence": rows[best].get("confidence")}
        return found if position is None else found | {position: best}


def _key(video: Mapping[str, Any]) -> str:
    return json.dumps({name: str(value) for name, value in video.items()})
