"""Choice of a recipe and overrides for a manifest and a machine, with the reasons."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipbert.config.load import load_params
from clipbert.config.recipes import overrides_of
from clipbert.errors import ClipBertError
from clipbert.pretrained.folder import MODELS
from clipbert.pretrained.wheels import WHEELS
from clipbert.project import Project
from clipbert.recommend.data_summary import DataSummary, ManifestData, TaskData
from clipbert.recommend.machine import Machine
from clipbert.recommend.results import Result, nearest_results
from clipbert.recommend.times import PEAK_MEMORY_BYTES, StageTime, stage_times

SMALL = "small"
CAPTIONING = "captioning"  # reads the same texts as retrieval, and is trained on request
MIN_LATIN_SHARE = 0.9
MAX_SPACING_S = 10.0  # of candidate frames, above which a note says so


@dataclass(frozen=True)
class Override:
    """A parameter that differs from the recipe, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """What to run for a manifest on a machine.

    Attributes:
        recipe: name of a recipe; None: params.yaml as committed.
        preset: `model.preset`.
        tasks: the tasks that it trains.
        overrides: of the recipe.
        first: commands to run before `command`.
        command: the command that runs the pipeline.
        times: expected time of each stage on this machine, and what it is computed from.
        results: {task: measured results with the nearest numbers of training videos; empty if there are none}.
        notes: what to know about these data and this machine.
    """

    data: DataSummary
    machine: Machine
    recipe: str | None
    preset: str
    tasks: list[str]
    overrides: list[Override]
    first: list[str]
    command: str
    times: list[StageTime]
    results: dict[str, list[Result]]
    notes: list[str]

    @property
    def total_s(self) -> float:
        """Expected seconds of all stages whose time is known."""
        return sum(time.seconds for time in self.times if time.seconds is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the recommendation as values of JSON."""
        return asdict(self) | {"total_s": round(self.total_s, 1)}


@dataclass(frozen=True)
class Parts:
    """Pretrained parts at hand.

    Attributes:
        missing: {name: requirement} of the parts of the recipe `small` whose wheel is not installed and that are not
            in models/.
        dual_encoders: folders of CLIP or SigLIP models in models/.
    """

    missing: Mapping[str, str]
    dual_encoders: tuple[str, ...] = ()


def find_parts(root: Path) -> Parts:
    """Return the pretrained parts of a project and of this environment."""
    missing = {
        name: WHEELS[name].requirement
        for name in ("efficientnet-lite0", "all-minilm-l6-v2")
        if not WHEELS[name].is_installed and not (root / MODELS / name).is_dir()
    }
    found = sorted(path.parent for path in (root / MODELS).glob("*/source.json") if '"dual_encoder"' in _text(path))
    return Parts(missing, tuple(path.relative_to(root).as_posix() for path in found))


def recommend(project: Project, params_file: Path, machine: Machine, parts: Parts) -> Recommendation:
    """Return what to run for the manifest of a project.

    Raises:
        ClipBertError: the manifest is unusable, no task has training texts, or the recipe does not fit
            params_file.
    """
    manifest = ManifestData(project.data, project.manifest)
    data = manifest.summary()
    ready = [task for task in data.tasks if not task.missing_splits]
    if not ready:
        raise ClipBertError(_no_task(project, data))
    recipe = None if data.sample_set else SMALL
    base = [] if recipe is None else overrides_of(project.recipes, recipe)
    overrides = [] if recipe is None else _overrides(manifest, load_params(params_file, base), ready)
    params = load_params(params_file, base + [f"{item.name}={item.value}" for item in overrides])
    tasks = [task for task in ready if task.task in params.tasks_run]
    return Recommendation(
        data=data,
        machine=machine,
        recipe=recipe,
        preset=params.model.preset,
        tasks=[task.task for task in tasks],
        overrides=overrides,
        first=_first(recipe, parts),
        command=_command(recipe, overrides),
        times=stage_times(manifest, tasks, params, machine),
        results={task.task: nearest_results(task.task, recipe, task.items["train"]) for task in tasks},
        notes=_notes(data, machine, parts, params, tasks),
    )


def _no_task(project: Project, data: DataSummary) -> str:
    """Return the message for a manifest that no task can be trained and tested on."""
    lines = [f"{task.task}: no texts in {', '.join(task.missing_splits)}" for task in [*data.tasks, *data.incomplete]]
    return (
        f"{project.manifest}: no task has texts in train, val and test ({'; '.join(lines)}). Set `split` in the files "
        f"of {project.data}, or import again with `--hold-out val=0.1 --hold-out test=0.2`; then run `clipbert ingest`."
    )


def _overrides(manifest: ManifestData, recipe: Any, ready: list[TaskData]) -> list[Override]:
    """Return what these data need besides the recipe, whose parameters are `recipe`."""
    found = []
    names = [task.task for task in ready if task.task != CAPTIONING]
    if names != recipe.tasks_run:
        reason = f"these data have texts for {', '.join(names)} in every split"
        found.append(Override("tasks_run", f"[{','.join(names)}]", reason))
    frames = recipe.frames
    fps, max_frames = manifest.frames_for_segments(frames, recipe.model.frames_per_clip or 1)
    reason = "every segment then holds enough candidate frames for a clip"
    if fps > frames.fps:
        found.append(Override("frames.fps", f"{fps:g}", reason))
    if max_frames > frames.max_frames:
        found.append(Override("frames.max_frames", str(max_frames), reason))
    return found


def _first(recipe: str | None, parts: Parts) -> list[str]:
    if recipe is None or not parts.missing:
        return []
    return [f"pip install {' '.join(parts.missing.values())}"]


def _command(recipe: str | None, overrides: list[Override]) -> str:
    if recipe is None:
        return "make run"
    if not overrides:
        return f"RECIPE={recipe} make run"
    changes = " ".join(f"-S {shlex.quote(f'{item.name}={item.value}')}" for item in overrides)
    return f"dvc exp run -n {recipe} $(clipbert recipe {recipe}) {changes}"


def _notes(data: DataSummary, machine: Machine, parts: Parts, params: Any, tasks: list[TaskData]) -> list[str]:
    """Return what to know about these data and this machine."""
    notes = [
        f"{task.task} is left out: no text of it is in split {' or '.join(task.missing_splits)}; training needs train "
        "and val, evaluation needs test"
        for task in [*data.tasks, *data.incomplete]
        if task.missing_splits
    ]
    if data.sample_set:
        notes.append("these are the videos of `clipbert sample-data`: params.yaml as committed is made for them")
        return notes
    for task in tasks:
        tested = task.items["test"]
        notes.append(
            f"{task.task}: {tested} test item{'s' if tested > 1 else ''}, so one of them is {100 / tested:.1f} points"
        )
    if any(task.task == "retrieval" for task in tasks):
        notes.append(
            "the captions can also train captioning: add `captioning` to tasks_run (docs/how-to/captioning.md)"
        )
    if data.duration_s is not None:
        spacing = data.duration_s[2] / params.frames.max_frames
        if spacing > MAX_SPACING_S:
            notes.append(
                f"the longest video has {data.duration_s[2]:.0f} s, so its {params.frames.max_frames} candidate frames "
                f"are {spacing:.0f} s apart: raise frames.max_frames, or give texts their segments "
                "(docs/how-to/long-videos.md, docs/how-to/segments.md)"
            )
    if data.latin_share < MIN_LATIN_SHARE:
        notes.append(
            f"only {100 * data.latin_share:.0f} % of the letters of the training texts are Latin, and all-MiniLM-L6-v2 "
            "was trained on English: start from a text encoder of your language (docs/how-to/backbones.md)"
        )
    if machine.memory_bytes < PEAK_MEMORY_BYTES:
        notes.append(
            f"the training took {PEAK_MEMORY_BYTES / 2**30:.1f} GiB where it was measured: with less memory it splits "
            "its batches (train.auto_microbatch), which takes longer"
        )
    if machine.gpu is not None:
        notes.append(
            "the training uses the GPU; the times are those of a CPU, and no quality was measured with a larger model. "
            "docs/how-to/backbones.md compares other starts"
        )
    if parts.dual_encoders:
        notes.append(
            f"{', '.join(parts.dual_encoders)} can start retrieval as model.dual_encoder: compare its zero-shot score "
            "first (docs/how-to/backbones.md)"
        )
    return notes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # a folder in models/ that something else wrote
        return ""
