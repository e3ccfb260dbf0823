"""The predictions of a block of rows: each video is decoded and encoded once, texts are scored in batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbert.inference.answer_batch import answer_batch
from clipbert.inference.base import INPUT_ERRORS, GivenFrames, Pipeline
from clipbert.prediction.table import ERROR, NEEDED, RESULTS, options_of, text_of, video_of
from clipbert.sampling.decoder_pool import decoder_pool
from clipbert.tasks.scoring import VIDEOS_AT_ONCE, clip_pixels

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
        asked: list[Result] = []
        keys: list[str] = []
        embeds, failed = self._encode(decoding)
        for place, row in enumerate(block.rows):
            try:
                key = _key(video_of(row, self.media))
                request = self._request(row)
            except ValueError as error:
                results[place][ERROR] = str(error)
                continue
            if key in failed:
                results[place][ERROR] = failed[key]
                continue
            good.append(place)
            keys.append(key)
            asked.append(request)
        if good:
            for place, found in zip(good, self._answers([embeds[key] for key in keys], asked), strict=True):
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

    def _request(self, row: Row) -> Result:
        """Return the request of a row, as `answer_batch` takes it.

        Raises:
            ValueError: a text is missing or empty.
        """
        needed = NEEDED[self.task]
        if "text" in needed:
            return {"texts": [text_of(row, "text")]}
        request: Result = {"question": text_of(row, "question"), "top": 1} if "question" in needed else {}
        return request | ({"options": options_of(row)} if "options" in needed else {})

    def _answers(self, embeds: list[Tensor], asked: list[Result]) -> list[Result]:
        """Return the best answer to each row's request, in batches of similar length."""
        order = sorted(range(len(asked)), key=lambda place: len(str(asked[place])))
        found: list[Result] = [{} for _ in asked]
        for start in range(0, len(order), self.pipeline.batch_size):
            some = order[start : start + self.pipeline.batch_size]
            answers = answer_batch(self.pipeline, [embeds[place] for place in some], [asked[place] for place in some])
            for place, rows in zip(some, answers, strict=True):
                found[place] = {name: rows[0].get(name) for name in RESULTS[self.task]}
        return found


def _key(video: Mapping[str, Any]) -> str:
    return json.dumps({name: str(value) for name, value in video.items()})
