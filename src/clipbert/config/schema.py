"""params.yaml, typed: every knob of every stage, with its default, its range and its meaning."""

import contextlib
import copy
import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from clipbert.config.data import IngestParams, Seconds, ValidateParams
from clipbert.config.fields import describe_problem, drop_empty_sections, missing_parameters
from clipbert.config.tasks import Section, TasksParams
from clipbert.config.training import TrainParams
from clipbert.config.yaml_io import DuplicateKeyError, dump_yaml, leaves, parse_yaml
from clipbert.errors import ClipBertError
from clipbert.redact import remember

TASKS = ("retrieval", "open_qa", "multiple_choice", "image_qa", "captioning", "pretrain")
TaskName = Literal["retrieval", "open_qa", "multiple_choice", "image_qa", "captioning"]

SCRATCH = "src/clipbert/model"  # for DVC, a path that is there: what the code draws at random


class FramesParams(Section):
    """The sampled-frame cache: candidate frames, from which training and evaluation draw their clips."""

    fps: float = Field(2.0, gt=0, le=240, description="candidate frames for each second of video")
    size: int = Field(112, ge=8, le=4096, description="pixels of the short side; smaller videos are not enlarged")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality")
    shard_mb: float = Field(64.0, gt=0, le=16384, description="a shard is closed at about this size")
    max_frames: int = Field(64, ge=1, description="candidates of one video at most, spread over its duration")
    sampling: Literal["uniform", "scene", "adaptive"] = Field(
        "uniform", description="candidates evenly in time, or more of them where the picture changes"
    )
    timeout_s: Seconds = Field(
        60.0, description="decoding one file is killed after this many seconds, more for long ones"
    )
    max_worker_mb: int = Field(4096, ge=256, description="a decoding process that holds more memory is killed")
    executor: str = Field(
        "local",
        pattern=r"^(local|dask://[^/\s]+:\d+)$",
        description="local processes, or dask://HOST:PORT of a scheduler",
    )
    media_url: str | None = Field(
        None, pattern="://", description="where the manifest's media lie, s3://bucket/data, say; null: data/"
    )
    cache_url: str | None = Field(
        None, pattern="://", description="where the cache is published as well, s3://bucket/frames, say; null: nowhere"
    )

    @field_validator("media_url", "cache_url", mode="before")
    @classmethod
    def _hide_password(cls, url: Any) -> Any:
        if isinstance(url, str):
            remember(url)
        return url


class ModelParams(Section):
    """A preset, and what to change in it; null keeps the preset's value."""

    preset: Literal["tiny", "base"] = Field("tiny", description="tiny: CPU minutes; base: the paper's model")
    init_from: str | None = Field(
        SCRATCH, description=f"folder of the model to start from; {SCRATCH} or null: random weights"
    )
    vision: str | None = Field(
        SCRATCH, description=f"folder or hub id of a backbone with feature maps; {SCRATCH} or null: the preset's ResNet"
    )
    text: str | None = Field(
        SCRATCH, description=f"folder or hub id of a BERT encoder; {SCRATCH} or null: the preset's, random weights"
    )
    image_size: int | None = Field(None, ge=32, le=2048, description="pixels of the square the model sees")
    clips: int | None = Field(None, ge=1, le=64, description="clips of a video in one training step")
    frames_per_clip: int | None = Field(None, ge=1, le=64, description="frames of a clip, joined by frame_fusion")
    frame_fusion: Literal["mean", "concat", "attention"] | None = Field(
        None, description="of a clip's frames; mean (the paper) does not see their order"
    )
    score_aggregation: Literal["lse", "mean", "max"] | None = Field(None, description="how clips' scores are fused")
    hidden_size: int | None = Field(None, ge=16, le=4096, description="width of the encoder")
    num_hidden_layers: int | None = Field(None, ge=1, le=64, description="layers of the encoder")
    num_attention_heads: int | None = Field(None, ge=1, le=64, description="heads of each layer; divides hidden_size")
    max_text_length: int | None = Field(None, ge=4, le=512, description="tokens; longer texts are cut")
    vocab_size: int = Field(8192, ge=64, description="of the WordPiece vocabulary learned from the training texts")

    @property
    def start_from(self) -> str | None:
        """The folder of the model whose weights are the start; None for random weights."""
        return None if self.init_from == SCRATCH else self.init_from

    @property
    def vision_from(self) -> str | None:
        """Folder or hub id of the backbone; None for the preset's."""
        return None if self.vision == SCRATCH else self.vision

    @property
    def text_from(self) -> str | None:
        """Folder or hub id of the text encoder; None for the preset's."""
        return None if self.text == SCRATCH else self.text

    def overrides(self) -> dict[str, Any]:
        """The fields that replace the preset's values."""
        chosen = self.model_dump(exclude={"preset", "vocab_size", "init_from", "vision", "text"}, exclude_none=True)
        if "hidden_size" in chosen:
            chosen["intermediate_size"] = 4 * chosen["hidden_size"]
        return chosen


class EvaluateParams(Section):
    """How a trained model is measured."""

    clips: int = Field(2, ge=1, le=64, description="uniform clips of a video")
    batch_size: int = Field(256, ge=1, description="text-video pairs in one forward pass")
    rerank_top_k: int | None = Field(
        None, ge=1, description="retrieval: the best videos by tower vectors that are judged for a text; null: all"
    )


class ReleaseParams(Section):
    """The registry's names, and the promotion gate: a paired bootstrap over the test items."""

    name: str = Field(
        "clipbert",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="experiments and registered models are NAME-TASK; one name for each project on an MLflow server",
    )

    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the interval whose lower end must exceed min_gain")
    min_gain: float = Field(0.0, ge=0, le=1, description="improvement of the mean item score that counts as better")
    bootstrap_samples: int = Field(10_000, ge=100, description="resamplings of the test items")


class Params(Section):
    """The whole of params.yaml."""

    tasks_run: list[TaskName] = Field(
        ["retrieval", "open_qa"], description="the tasks of `dvc repro`: " + ", ".join(TASKS[:-1])
    )
    pretrain_run: list[Literal["pretrain"]] = Field(
        [], max_length=1, description="[pretrain]: image-text pretraining as well, before what starts from it"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of everything that is drawn at random in a training")
    ingest: IngestParams = IngestParams()
    validate_: ValidateParams = Field(ValidateParams(), alias="validate")
    frames: FramesParams = FramesParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    tasks: TasksParams = TasksParams()
    evaluate: EvaluateParams = EvaluateParams()
    release: ReleaseParams = ReleaseParams()

    @model_validator(mode="after")
    def _frames_large_enough(self) -> "Params":
        if self.frames.size < self.image_size:
            raise ValueError(
                f"frames.size = {self.frames.size} is smaller than the model's image_size = {self.image_size}: "
                f"cached frames would be enlarged; set frames.size to {self.image_size} or more"
            )
        return self

    @property
    def image_size(self) -> int:
        """Pixels of the square the model sees."""
        return self.model.image_size or {"tiny": 96, "base": 448}[self.model.preset]

    def flat(self) -> dict[str, Any]:
        """{"train.lr": 0.001, ...}: every field that is no section, under its dotted path."""
        return _flat(self)


def load_params(
    path: Path = Path("params.yaml"), overrides: list[str] | None = None, source: str = "--set", complete: bool = True
) -> Params:
    """Read a parameter file and apply `key=value` overrides, the values written as in YAML.

    Every parameter must be in the file or among the overrides: a file that was cut off must not become one with
    default values.

    Args:
        source: what gave the overrides, for messages about them.
        complete: False takes the default of every missing parameter.

    Raises:
        ClipBertError: the file is missing, unreadable or cut off; a key is unknown, missing or occurs twice; a value
            has a wrong type or is out of range. Each is named with its path, its value and what is allowed; a mistake
            in an override names the override.
    """
    values = drop_empty_sections(Params, _read(path, complete))
    in_file_alone = copy.deepcopy(values)
    given: dict[tuple[str, ...], str] = {}
    for override in overrides or []:
        given[_apply(values, override, source)] = f"{source} {override}"
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        problems, params = error.errors(), None
    else:
        problems = []
    known = list(Params().flat())
    in_file: list[str] = []
    messages: list[str] = []
    for problem in problems:
        text = describe_problem(Params, known, problem)
        blamed = _blamed(problem, given, in_file_alone)
        if blamed is None:
            in_file.append(f"  {text}")
        else:
            messages.append(f"{blamed}: {text}")
    if in_file:
        messages.append(f"{path}: {len(in_file)} wrong parameter(s):\n" + "\n".join(in_file))
    if complete and (missing := missing_parameters(Params, values)):
        messages.append(_describe_missing(path, missing))
    if messages or params is None:
        raise ClipBertError("\n".join(messages))
    return params


def _read(path: Path, complete: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ClipBertError(
            f"{path}: no such parameter file. Run the command in the project's folder, or name the file with --params."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}); expected a UTF-8 YAML file.") from error
    if complete and text and not text.endswith("\n"):
        raise ClipBertError(
            f"{path}: its last line does not end with a newline, as of a file that was cut off. Restore it "
            f"(git checkout {path}); if it is complete, add the newline."
        )
    try:
        values = parse_yaml(text) or {}
    except DuplicateKeyError as error:
        raise ClipBertError(f"{path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ClipBertError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ClipBertError(f"{path}: expected sections such as `train:`, found {type(values).__name__}.")
    return values


def _describe_missing(path: Path, missing: dict[str, Any]) -> str:
    text = dump_yaml(missing)
    count = len(leaves(missing))
    listed = "".join(f"  {line}\n" for line in text.splitlines())
    return (
        f"{path}: {count} missing parameter(s). Add them to their sections; these are the defaults:\n{listed}"
        f"If the file was cut off, restore it: git checkout {path}. "
        f"`clipbert params --complete` prints the whole file with the defaults added."
    )


def _flat(section: Section, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{field.alias or name}"
        found |= _flat(value, f"{path}.") if isinstance(value, Section) else {path: value}
    return found


def _apply(values: dict[str, Any], override: str, source: str) -> tuple[str, ...]:
    """Put an override into nested `values`; returns its path."""
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ClipBertError(f"{source} {override}: expected KEY=VALUE, for example --set train.lr=0.001")
    place = values
    for section in path[:-1]:
        if place.get(section) is None:
            place[section] = {}
        inner = place[section]
        if not isinstance(inner, dict):
            raise ClipBertError(f"{source} {override}: {section} is a value, not a section.")
        place = inner
    try:
        place[path[-1]] = parse_yaml(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ClipBertError(f"{source} {override}: the value is not valid YAML ({reason}); quote text.") from error
    return path


def _blamed(problem: ErrorDetails, given: dict[tuple[str, ...], str], in_file_alone: dict[str, Any]) -> str | None:
    """The overrides that a problem comes from; None if it is in the file.

    A problem between two parameters has no location: if the file alone is valid, it comes from the overrides of those
    that its message names.
    """
    parts = tuple(map(str, problem["loc"]))
    if not parts:
        with contextlib.suppress(ValidationError):
            Params.model_validate(in_file_alone)
            named = [text for path, text in given.items() if path[-1] in problem["msg"]]
            return ", ".join(named or given.values())
        return None
    found = [text for path, text in given.items() if path[: len(parts)] == parts or parts[: len(path)] == path]
    return found[-1] if found else None


def check_task(task: str) -> str:
    """`task` itself when there is such a task.

    Raises:
        ClipBertError: otherwise, with the tasks there are.
    """
    if task not in TASKS:
        nearest = difflib.get_close_matches(task, TASKS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ClipBertError(f"{task}: no such task; expected one of {', '.join(TASKS)}.{hint}")
    return task
