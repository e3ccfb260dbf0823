"""Data order and samples are functions of (seed, epoch, example)."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trainings import build_from_params

from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment
from clipbert.tasks import make_task
from clipbert.training.data import DistributedBatchSampler, TrainingSamples, media_key, training_batches


def test_every_epoch_is_another_permutation_and_leaves_out_less_than_a_batch() -> None:
    batches = list(DistributedBatchSampler(examples=10, batch_size=4, epochs=3, seed=0))
    assert len(batches) == 6
    epochs = [[i for epoch, i, _ in batches[2 * e] + batches[2 * e + 1] if epoch == e] for e in range(3)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_resumed_order_goes_on_where_it_was() -> None:
    straight = list(DistributedBatchSampler(examples=10, batch_size=3, epochs=2, seed=5))
    for start in range(len(straight)):
        assert (
            list(DistributedBatchSampler(examples=10, batch_size=3, epochs=2, seed=5, start=start)) == straight[start:]
        )


def test_a_step_has_the_same_examples_however_it_is_cut_into_batches() -> None:
    large = list(DistributedBatchSampler(examples=13, batch_size=6, epochs=2, seed=5))
    order = DistributedBatchSampler(examples=13, batch_size=2, epochs=2, seed=5, gradient_accumulation_steps=3)
    small = list(order)
    assert (order.steps, len(order)) == (4, 12)
    assert [small[i] + small[i + 1] + small[i + 2] for i in range(0, 12, 3)] == large
    resumed = DistributedBatchSampler(
        examples=13, batch_size=2, epochs=2, seed=5, start=9, gradient_accumulation_steps=3
    )
    assert list(resumed) == small[9:]
    few = DistributedBatchSampler(examples=5, batch_size=2, epochs=1, seed=0, gradient_accumulation_steps=64)
    assert (few.gradient_accumulation_steps, few.steps, len(few)) == (2, 1, 2)


def test_fewer_examples_than_a_batch_make_one_smaller_batch() -> None:
    order = DistributedBatchSampler(examples=3, batch_size=8, epochs=2, seed=0)
    assert [len(batch) for batch in order] == [3, 3]


def test_batches_are_the_same_twice_and_in_worker_processes(tiny_project: Path) -> None:
    params = Params()
    task = make_task("open_qa", params.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
    model, processor = build_from_params(task, examples, params)
    cache = FrameCache(tiny_project / "artifacts" / "frames")

    def batches(num_workers: int) -> list[tuple[torch.Tensor, ...]]:
        order = DistributedBatchSampler(len(examples), batch_size=8, epochs=1, seed=3)
        samples = TrainingSamples(cache, examples, task, model.config, seed=3)
        loaded = training_batches(samples, order, processor, num_workers, pin_memory=False)
        return [(b.pixel_values, b.input_ids, b.labels, b.texts_per_video) for b in loaded]

    first, again, spawned = batches(0), batches(0), batches(1)
    for one, two, three in zip(first, again, spawned, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, three, strict=True))
    pixel_values, input_ids, labels, texts_per_video = first[0]
    config = model.config
    assert pixel_values.shape == (8, config.clips, config.frames_per_clip, 3, config.image_size, config.image_size)
    assert pixel_values.dtype == torch.uint8
    assert len(input_ids) == len(labels) == int(texts_per_video.sum())


def test_each_epoch_draws_other_frames(tiny_project: Path) -> None:
    params = Params()
    task = make_task("retrieval", params.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
    model, _ = build_from_params(task, examples, params)
    samples = TrainingSamples(FrameCache(tiny_project / "artifacts" / "frames"), examples, task, model.config, seed=0)
    drawn = [samples.draw(epoch, 0).images for epoch in range(6)]
    assert any(not np.array_equal(drawn[0], other) for other in drawn[1:])


def test_a_video_has_the_same_number_everywhere(tiny_project: Path) -> None:
    params = Params()
    task = make_task("retrieval", params.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")
    model, processor = build_from_params(task, examples, params)
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    samples = TrainingSamples(cache, examples, task, model.config, seed=3)
    order = DistributedBatchSampler(len(examples), batch_size=len(examples), epochs=1, seed=3)
    (batch,) = training_batches(samples, order, processor, num_workers=0, pin_memory=False)
    assert batch.media_keys is not None
    assert batch.media_keys.dtype == torch.int64
    assert sorted(batch.media_keys.tolist()) == sorted(media_key(example.media) for example in examples)
    assert len(set(batch.media_keys.tolist())) == len(examples)
    assert media_key("videos/a.mp4") == -188289786283843835


def test_clips_of_a_segment_lie_inside_it(tiny_project: Path) -> None:
    params = Params()
    task = make_task("retrieval", params.tasks)
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "train")[:2]
    model, processor = build_from_params(task, examples, params)
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    times = cache[examples[0].media].times
    segment = Segment(float(times[1]), float(times[3]))
    parts = [replace(examples[0], segment=segment), examples[1]]
    samples = TrainingSamples(cache, parts, task, model.config, seed=0)
    inside = cache.read(examples[0].media, [1, 2])
    drawn = np.concatenate([np.asarray(samples.draw(epoch, 0).images) for epoch in range(8)])
    found = {int(np.argmax([np.array_equal(image, frame) for frame in inside])) for image in drawn}
    assert found == {0, 1}
    assert all(any(np.array_equal(image, frame) for frame in inside) for image in drawn)
    whole = TrainingSamples(cache, examples, task, model.config, seed=0)
    assert np.array_equal(samples.draw(3, 1).images, whole.draw(3, 1).images)
    order = DistributedBatchSampler(2, batch_size=2, epochs=1, seed=3)
    (batch,) = training_batches(samples, order, processor, num_workers=0, pin_memory=False)
    assert sorted(batch.media) == sorted([parts[0].key, parts[1].media])
    spans = dict(zip(batch.media, batch.spans.tolist(), strict=True))
    assert spans == {parts[0].key: pytest.approx([times[1], times[3]]), parts[1].media: [0.0, math.inf]}
    (without,) = training_batches(whole, order, processor, num_workers=0, pin_memory=False)
    assert without.spans is None
