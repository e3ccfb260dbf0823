"""Evaluation of a saved model with and without reranking, and the conditions of an evaluation."""

import hashlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluation_process
import numpy as np
import pandas as pd
import pytest
import torch
from small_trainings import build_from_params
from trainings import finished

from clipbert.config.schema import Params
from clipbert.config.tasks import task_names
from clipbert.data.manifest import SEGMENTS_SCHEMA, TEXTS_FILE, read_texts, write_table
from clipbert.errors import ClipBertError
from clipbert.evaluation import rerank_depth
from clipbert.evaluation.conditions import (
    SCORING_VERSION,
    conditions,
    differences,
    from_tags,
    items_digest,
    to_tags,
    with_conditions,
)
from clipbert.evaluation.metrics.ranking import mean_rank_of, ranks_of_texts
from clipbert.evaluation.predictions_file import read_predictions_file, write_predictions
from clipbert.evaluation.run import Evaluation, evaluate_model
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.sampling.segments import Segment
from clipbert.tasks import make_task, task_class
from clipbert.tasks.batch import Example
from clipbert.tasks.predict import encode_videos
from clipbert.tasks.scoring import ProcessorTokens, rank_gallery


def evaluated(
    project: Path,
    folder: Path,
    contrastive_weight: float,
    rerank: int | str | None,
    clips: int = 1,
    model: dict[str, Any] | None = None,
    precision: str = "auto",
) -> Evaluation:
    tasks = {"retrieval": {"contrastive_weight": contrastive_weight}}
    evaluate = {"clips": clips, "batch_size": 5, "rerank_top_k": rerank, "precision": precision}
    params = Params.model_validate({"tasks": tasks, "evaluate": evaluate, "model": model or {}})
    artifacts = project / "artifacts"
    task = make_task("retrieval", params.tasks)
    if not folder.exists():
        torch.manual_seed(0)
        model, processor = build_from_params(
            task, task.examples.read(read_texts(artifacts / "manifest"), "train"), params
        )
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return evaluate_model(folder, task, artifacts / "manifest", artifacts / "frames", params.evaluate, params.frames)


def conditions_of(task: str, params: Params) -> dict[str, Any]:
    return conditions(task, params.tasks.section(task), params.evaluate, params.frames)


def test_reranking_every_video_gives_exactly_the_exhaustive_ranks(tiny_project: Path, tmp_path: Path) -> None:
    exhaustive = evaluated(tiny_project, tmp_path / "model", 1.0, None)
    gallery = int(exhaustive.metrics["retrieval/gallery"])
    for rerank in (gallery, gallery + 1):
        seen = evaluated(tiny_project, tmp_path / "model", 1.0, rerank)
        pd.testing.assert_frame_equal(seen.items.drop(columns="reranked"), exhaustive.items)
        pd.testing.assert_frame_equal(seen.blank_items.drop(columns="reranked"), exhaustive.blank_items)
        assert seen.metrics["retrieval/reranked_pairs"] == gallery * len(exhaustive.items)
        assert {name: seen.metrics[name] for name in exhaustive.metrics} == exhaustive.metrics


def test_ranks_and_scores_are_those_of_each_text_alone(tiny_project: Path, tmp_path: Path) -> None:
    items = evaluated(tiny_project, tmp_path / "model", 1.0, None, clips=2).items
    task, cache = make_task("retrieval", Params().tasks), FrameCache(tiny_project / "artifacts" / "frames")
    model, processor = load(tmp_path / "model"), ClipBertProcessor.from_pretrained(tmp_path / "model")
    examples = task.examples.read(read_texts(tiny_project / "artifacts" / "manifest"), "test")
    tokenize = ProcessorTokens(processor, torch.device("cpu"))
    keys, rows, gallery = [e.key for e in examples], items.set_index("item_id"), len(examples)
    assert items["item_id"].tolist() == [text_id for e in examples for text_id in e.ids]
    matrix, owners = [], []
    with torch.inference_mode():
        visual = encode_videos(model, processor, cache, examples, 2).of(keys)
        vectors = model.get_video_features(visual)
        for truth, example in enumerate(examples):
            for text_id, text in zip(example.ids, example.texts, strict=True):
                scores = rank_gallery(model, visual, vectors, *tokenize([text]), batch_size=256).scores
                best = scores.argsort(descending=True, stable=True)[:5].tolist()
                assert rows.loc[text_id, "rank"] == mean_rank_of(scores, truth)
                assert rows.loc[text_id, "top_media"] == [keys[video] for video in best]
                assert rows.loc[text_id, "top_scores"] == pytest.approx(scores[best].tolist(), rel=1e-4, abs=1e-5)
                matrix.append(scores.numpy())
                owners.append(truth)
    assert items["gallery"].unique().tolist() == [gallery]
    assert items["text_rank"].tolist() == ranks_of_texts(np.stack(matrix), owners).tolist()


def test_bf16_changes_no_rank_beyond_its_rounding(tiny_project: Path, tmp_path: Path) -> None:
    exact = evaluated(tiny_project, tmp_path / "model", 1.0, None, precision="fp32").items
    rounded = evaluated(tiny_project, tmp_path / "model", 1.0, None, precision="bf16").items
    assert [items.attrs["evaluation"]["precision"] for items in (exact, rounded)] == ["fp32", "bf16"]
    best, other = (np.stack(items["top_scores"].map(lambda scores: scores[:5])) for items in (exact, rounded))
    error = np.abs(best - other).max()
    assert 0 < error < 0.02 * np.abs(best).max()  # bf16 has 8 bits
    differing = exact["rank"] != rounded["rank"]
    assert (exact["rank"] - rounded["rank"]).abs()[differing].max() <= 2 or not differing.any()


def test_a_large_gallery_is_reranked_as_the_validation_split_allows(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = evaluated(tiny_project, tmp_path / "model", 1.0, "auto")
    assert small.items.attrs["evaluation"]["rerank"] is None
    assert "rerank_choice" not in small.items.attrs
    monkeypatch.setattr(rerank_depth, "EXACT_GALLERY", 4)
    monkeypatch.setattr(rerank_depth, "DEPTHS", (1, 2, 3, 4, 5, 6, 7))
    seen = evaluated(tiny_project, tmp_path / "model", 1.0, "auto")
    recalls, top_k = seen.items.attrs["rerank_choice"]["recalls"], seen.items.attrs["rerank_choice"]["top_k"]
    assert set(recalls) == {"exact", *"1234567"}
    assert "(evaluate.rerank_top_k: auto)." in capsys.readouterr().out
    assert seen.items.attrs["evaluation"]["rerank"] == top_k
    assert seen.metrics.get("retrieval/reranked", seen.metrics["retrieval/gallery"]) == (top_k or 8)
    if top_k is not None:
        assert all(a >= b for a, b in zip(recalls[str(top_k)], recalls["exact"], strict=True))


def scores_folder(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors"))


@pytest.mark.slow
def test_processes_share_the_videos_and_a_killed_evaluation_continues(tiny_project: Path, tmp_path: Path) -> None:
    alone = evaluated(tiny_project, tmp_path / "model", 1.0, 3)
    exact = evaluated(tiny_project, tmp_path / "model", 1.0, None)
    for rerank, expected in ((3, alone), (None, exact)):
        out = tmp_path / f"shared-{rerank}"
        finished(evaluation_process.started(tiny_project, tmp_path / "model", out, rerank, processes=2))
        items = pd.read_parquet(out / "items.parquet")
        pd.testing.assert_frame_equal(items, expected.items, rtol=1e-4, check_like=True)
        assert json.loads((out / "metrics.json").read_text()) == pytest.approx(expected.metrics, rel=1e-4)
    out = tmp_path / "killed"
    process = evaluation_process.started(tiny_project, tmp_path / "model", out, None, stop_after=2)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert scores_folder(out / "scores") == ["test/000000.safetensors", "test/000001.safetensors"]
    said = finished(evaluation_process.started(tiny_project, tmp_path / "model", out, None))
    assert f"retrieval: continues with 2 blocks of scores in {out / 'scores' / 'test'}" in said
    pd.testing.assert_frame_equal(pd.read_parquet(out / "items.parquet"), exact.items, rtol=1e-4)
    # other settings do not use them
    said = finished(evaluation_process.started(tiny_project, tmp_path / "model", out, 3))
    assert "continues" not in said
    pd.testing.assert_frame_equal(pd.read_parquet(out / "items.parquet"), alone.items, rtol=1e-4)


def test_headlines_come_first_with_their_intervals(tiny_project: Path, tmp_path: Path) -> None:
    seen = evaluated(tiny_project, tmp_path / "model", 1.0, None)
    names = list(seen.metrics)
    assert names[:5] == [f"retrieval/{n}" for n in ("r1", "r1_ci_low", "r1_ci_high", "chance_r1", "blank_frames_r1")]
    for name in ("r1", "r5", "median_rank", "video_to_text_r1"):
        low, value, high = (seen.metrics[f"retrieval/{name}{end}"] for end in ("_ci_low", "", "_ci_high"))
        assert low <= value <= high
        assert (low, high) == (seen.intervals[f"retrieval/{name}"].low, seen.intervals[f"retrieval/{name}"].high)
    assert seen.intervals.keys() >= {"retrieval/mrr", "retrieval/video_to_text_ndcg"}
    assert "retrieval/mrr_ci_low" not in seen.metrics  # not a headline


def test_one_clip_of_one_frame_is_a_single_frame_in_any_order(tiny_project: Path, tmp_path: Path) -> None:
    items = evaluated(tiny_project, tmp_path / "model", 1.0, None).items
    assert items["single_frame_score"].tolist() == items["shuffled_frames_score"].tolist() == items["score"].tolist()


@pytest.mark.parametrize("contrastive_weight", [1.0, 0.0])
def test_other_frames_are_scored_by_the_same_model(
    tiny_project: Path, tmp_path: Path, contrastive_weight: float
) -> None:
    several = {"frames_per_clip": 3, "frame_fusion": "attention"}
    seen = evaluated(tiny_project, tmp_path / "model", contrastive_weight, None, clips=2, model=several)
    for name in ("single_frame", "shuffled_frames"):
        scores = seen.items[f"{name}_score"]
        # without a dual encoder every tenth text is scored, of fewer than ten one
        assert scores.notna().sum() == (len(scores) if contrastive_weight else -(-len(scores) // 10))
        assert seen.metrics[f"retrieval/{name}_r1"] == pytest.approx(100 * scores.mean())


def test_items_have_the_trivial_baselines_and_say_how_they_were_made(tiny_project: Path, tmp_path: Path) -> None:
    seen = evaluated(tiny_project, tmp_path / "model", 1.0, 3)
    assert task_class("retrieval").report.all_baselines().keys() <= set(seen.items.columns)
    blank = seen.blank_items.set_index("item_id")["score"]
    assert seen.items["blank_frames_score"].tolist() == blank[seen.items["item_id"]].tolist()
    seen.items.to_parquet(tmp_path / "items.parquet", index=False)
    recorded = pd.read_parquet(tmp_path / "items.parquet").attrs["evaluation"]
    assert (recorded["clips"], recorded["rerank"], recorded["scoring"]) == (1, 3, SCORING_VERSION)
    assert (
        recorded["test_items"]
        == evaluated(tiny_project, tmp_path / "model", 1.0, None).items.attrs["evaluation"]["test_items"]
    )


def test_conditions_of_a_version_come_back_from_its_tags_and_into_parameters() -> None:
    for task in task_names():
        recorded = {**conditions_of(task, Params()), "test_items": "0a1e5"}
        assert from_tags(task, to_tags(recorded)) == recorded
        assert differences(task, recorded, recorded) == []
    params = Params.model_validate({"tasks": {"captioning": {"beams": 7}}, "evaluate": {"clips": 4, "rerank_top_k": 9}})
    default = Params()
    recorded = conditions_of("captioning", params)
    section, evaluate = with_conditions("captioning", default.tasks.captioning, default.evaluate, recorded)
    assert section == default.tasks.captioning.model_copy(update={"beams": 7})
    assert (evaluate.clips, evaluate.rerank_top_k) == (4, "auto")
    recorded = conditions_of("retrieval", params)
    assert recorded["rerank"] == 9  # the name in the tags of versions that were registered before it was renamed
    section, evaluate = with_conditions("retrieval", default.tasks.retrieval, default.evaluate, recorded)
    assert (section, evaluate.rerank_top_k) == (default.tasks.retrieval, 9)
    assert differences("retrieval", {}, recorded)


def test_another_text_or_file_is_another_set_of_test_items() -> None:
    example = Example("a.mp4", ["1"], ["a red square"], [""], [""])
    digests = {
        items_digest([example], {"a.mp4": "00"}),
        items_digest([example], {"a.mp4": "01"}),
        items_digest([replace(example, texts=["a blue square"])], {"a.mp4": "00"}),
    }
    assert len(digests) == 3


def test_reranking_a_few_leaves_the_others_in_the_dual_encoders_order(tiny_project: Path, tmp_path: Path) -> None:
    items = evaluated(tiny_project, tmp_path / "model", 1.0, 3).items
    exhaustive = evaluated(tiny_project, tmp_path / "model", 1.0, None).items
    assert items["dual_encoder_rank"].tolist() == exhaustive["dual_encoder_rank"].tolist()
    reranked = items["dual_encoder_rank"] <= 3
    assert 0 < reranked.sum() < len(items)
    assert (items["rank"][reranked] <= 3).all()
    assert (items["rank"][~reranked] == items["dual_encoder_rank"][~reranked]).all()
    assert {len(media) for media in items["top_media"]} == {3}


def test_reranking_a_model_without_a_dual_encoder(tiny_project: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"evaluate\.rerank_top_k is 3, but this model has no dual encoder"):
        evaluated(tiny_project, tmp_path / "model", 0.0, 3)


def test_another_number_of_clips_than_the_folders_is_named(
    tiny_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tiny_project, tmp_path / "model", 1.0, None)
    assert "stored there" not in capsys.readouterr().out
    settings = ClipBertProcessor.from_pretrained(tmp_path / "model")
    settings.clips = 3
    settings.save_pretrained(tmp_path / "model")
    evaluated(tiny_project, tmp_path / "model", 1.0, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "retrieval: evaluated with evaluate.clips = 1; pipelines on" in said
    assert "use the 3 clips stored there" in said


def test_test_items_without_segments_have_the_digest_of_earlier_versions() -> None:
    example = Example("a.mp4", ["c0"], ["a dog"], [""], [""])
    facts = {"media": "a.mp4", "ids": ["c0"], "texts": ["a dog"], "answers": [""], "answer_types": [""]}
    facts |= {"options": [], "right": [], "scores": []}
    line = json.dumps([facts, "5a"], sort_keys=True, default=str)
    assert items_digest([example], {"a.mp4": "5a"}) == hashlib.sha256(line.encode()).hexdigest()
    parts = [replace(example, segment=Segment(start)) for start in (1.0, 2.0)]
    assert len({items_digest([part], {"a.mp4": "5a"}) for part in (example, *parts)}) == 3


def test_segments_are_evaluated_as_items_of_their_own(tiny_project: Path, tmp_path: Path) -> None:
    whole = evaluated(tiny_project, tmp_path / "model", 1.0, None)
    assert not {"start_s", "end_s", "top_start_s"} & set(whole.items.columns)
    project = tmp_path / "project"
    (project / "artifacts").mkdir(parents=True)
    (project / "artifacts" / "frames").symlink_to(tiny_project / "artifacts" / "frames")
    texts = read_texts(tiny_project / "artifacts" / "manifest")
    captions = texts[(texts["kind"] == "caption") & (texts["split"] == "test") & (texts["media_kind"] == "video")]
    captions = captions.drop_duplicates("media")
    manifest = project / "artifacts" / "manifest"
    shutil.copytree(tiny_project / "artifacts" / "manifest", manifest)
    others = texts[(texts["kind"] == "caption") & (texts["split"] == "train")]
    with write_table(manifest / TEXTS_FILE, SEGMENTS_SCHEMA) as table:
        for row in others.to_dict("records"):
            table.add(plain(row))
        for row in captions.to_dict("records"):
            table.add(plain(row) | {"id": f"{row['id']}-first", "end_s": 1.0})
            table.add(plain(row) | {"id": f"{row['id']}-rest", "start_s": 1.0})
    seen = evaluated(project, tmp_path / "model", 1.0, None)
    assert seen.metrics["retrieval/gallery"] == 2 * len(captions) == len(seen.items)
    assert set(seen.items["media"]) == set(captions["media"])
    assert seen.items["start_s"].tolist() == [0.0, 1.0] * len(captions)
    assert seen.items["end_s"].isna().tolist() == [False, True] * len(captions)
    write_predictions(tmp_path / "items.parquet", seen.items, seen.metrics)
    again, _ = read_predictions_file(tmp_path / "items.parquet")
    assert again["top_start_s"].map(len).eq(5).all()
    assert seen.items.attrs["evaluation"]["test_items"] != whole.items.attrs["evaluation"]["test_items"]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the texts table with None where pandas has NaN."""
    return {key: None if not isinstance(value, list) and pd.isna(value) else value for key, value in row.items()}
