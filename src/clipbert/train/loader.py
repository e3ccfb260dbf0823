"""From the frame cache to batches: which video, which clips, which texts, all a function of (seed, epoch, video)."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from clipbert.frames import FrameCache
from clipbert.frames.sampling import random_clips
from clipbert.tasks.base import Batch, Example, Task
from clipbert.tasks.predict import ProcessorTokens, pixels


@dataclass(frozen=True)
class Sample:
    """One drawn example: frames (K*T, H, W, 3) uint8 in clip order, and the drawn texts, in one list an item."""

    media: str
    images: np.ndarray
    texts: list[list[str]]
    labels: list[Any]
    ids: list[str]
    caption: str | None
    seed: int  # of what is drawn later, from the tokens


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, example), `accumulate` of them for every step of a run, from step `start` on.

    Each epoch is a new permutation made from (seed, epoch) alone, so a resumed run goes on in the very order it left;
    a step has the same examples however they are cut into batches. The remainder that does not fill a step is left
    out, another one each epoch.
    """

    def __init__(
        self, examples: int, batch_size: int, epochs: int, seed: int, start: int = 0, accumulate: int = 1
    ) -> None:
        self.examples, self.seed, self.epochs, self.start = examples, seed, epochs, start
        self.batch_size = min(batch_size, examples)
        self.accumulate = min(accumulate, examples // self.batch_size)
        self.steps_per_epoch = examples // (self.batch_size * self.accumulate)
        self.steps = self.steps_per_epoch * epochs

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.start:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.examples)
            for part in range(position * self.accumulate, (position + 1) * self.accumulate):
                some = order[part * self.batch_size : (part + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in some]


class TrainingSamples(Dataset[Sample]):
    """Draws sparse random clips and texts of a video; the same (epoch, index) always gives the same draw."""

    def __init__(self, cache: FrameCache, examples: list[Example], task: Task, config: Any, seed: int) -> None:
        self.cache, self.examples, self.task, self.config, self.seed = cache, examples, task, config, seed
        self.captions = task.uses_captions(examples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        example = self.examples[index]
        generator = np.random.default_rng([self.seed, epoch, index])
        frames = random_clips(
            self.cache.num_frames(example.media), self.config.clips, self.config.frames_per_clip, generator
        )
        chosen = self.task.draw(example, generator)
        return Sample(
            media=example.media,
            images=self.cache.read(example.media, frames.flatten()),
            texts=[self.task.wording(example, i) for i in chosen],
            labels=self.task.labels(example, chosen, self.config),
            ids=[example.ids[i] for i in chosen],
            caption=str(generator.choice(example.captions)) if self.captions else None,
            seed=int(generator.integers(2**63)),
        )


class Collate:
    """Samples to a `Batch` through the model's processor."""

    def __init__(self, processor: Any, task: Task, config: Any) -> None:
        self.processor, self.task, self.config = processor, task, config

    def __call__(self, samples: list[Sample]) -> Batch:
        items = [texts for sample in samples for texts in sample.texts]
        encoded = self.processor(texts=[text for texts in items for text in texts])
        captions = [sample.caption for sample in samples if sample.caption is not None]
        captioned = self.processor(texts=captions) if captions else {}
        clips, frames_per_clip = self.config.clips, self.config.frames_per_clip
        batch = Batch(
            pixel_values=torch.stack(
                [pixels(self.processor, sample.images, clips, frames_per_clip) for sample in samples]
            ),
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            texts_per_video=torch.tensor([sum(map(len, sample.texts)) for sample in samples]),
            labels=torch.tensor([label for sample in samples for label in sample.labels]),
            ids=[text_id for sample in samples for text_id in sample.ids],
            texts_per_item=torch.tensor([len(texts) for texts in items]),
            caption_ids=captioned.get("input_ids"),
            caption_mask=captioned.get("attention_mask"),
            media_keys=torch.tensor([media_key(sample.media) for sample in samples]),
        )
        tokenize = ProcessorTokens(self.processor, torch.device("cpu"))
        return self.task.prepare(batch, [sample.seed for sample in samples], tokenize, self.config)


def media_key(media: str) -> int:
    """A video's name as a signed 64-bit number: what ranks can compare."""
    return int.from_bytes(hashlib.sha256(media.encode()).digest()[:8], signed=True)


def training_batches(
    dataset: TrainingSamples, order: TrainingOrder, processor: Any, workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """The batches of a run from `order.start` on, made in `workers` processes (0: in this one)."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=Collate(processor, dataset.task, dataset.config),
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        # Its own generator: otherwise making an iterator draws from the one whose state a checkpoint restores.
        generator=torch.Generator().manual_seed(dataset.seed),
    )
