"""Schema of params.yaml: every parameter with its default, range and description."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clipbert.config.data import InboxParams, IngestParams, Seconds, ValidateParams
from clipbert.config.models import Field, FieldInfo, field_validator, model_validator
from clipbert.config.tasks import Section, TaskSection, TasksParams, task_names
from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.redact import redact_values, register_secrets

if TYPE_CHECKING:
    TaskName: TypeAlias = str
    PretrainingTaskName: TypeAlias = str
else:
    TaskName = Literal[task_names("tasks_run")]
    PretrainingTaskName = Literal[task_names("pretrain_run")]

SCRATCH = "src/clipbert/model"  # random weights: DVC needs a dependency that exists, here the code that draws them


class FramesParams(Section):
    """The sampled-frame cache: candidate frames from which training and evaluation sample clips."""

    fps: float = Field(2.0, gt=0, le=240, description="candidate frames per second of video")
    size: int = Field(
        112, ge=8, le=4096, description="short side of the cached frames in pixels; smaller videos are not enlarged"
    )
    quality: int = Field(90, ge=1, le=100, description="JPEG quality of the cached frames")
    shard_mb: float = Field(64.0, gt=0, le=16384, description="approximate size of a shard file in MB")
    max_frames: int = Field(
        64, ge=1, description="maximum number of candidate frames per video, spread over its duration"
    )
    sampling: Literal["uniform", "scene", "adaptive"] = Field(
        "uniform",
        description="choice of candidate frames: evenly in time, one per scene, or denser where the picture changes",
    )
    timeout_s: Seconds = Field(60.0, description="time limit for decoding one file in seconds; long files get more")
    max_worker_mb: int = Field(
        4096, ge=256, description="memory limit of a decoding process in MB; above it the process is killed"
    )
    executor: str = Field(
        "local",
        pattern=r"^(local|dask://[^/\s]+:\d+)$",
        description="where files are decoded: local processes, or a Dask scheduler as dask://HOST:PORT",
    )
    media_url: str | None = Field(
        None, pattern="://", description="URL of the media in the manifest, such as s3://bucket/data; null: data/"
    )
    cache_url: str | None = Field(
        None,
        pattern="://",
        description="URL to which the cache is also published, such as s3://bucket/frames; null: not published",
    )

    @field_validator("media_url", "cache_url", mode="before")
    @classmethod
    def _hide_password(cls, url: Any) -> Any:
        if isinstance(url, str):
            register_secrets(url)
        return url


class ModelParams(Section):
    """Architecture and initial weights of the model: a preset and changes to it; null keeps the preset's value."""

    preset: Literal["tiny", "small", "base"] = Field(
        "tiny", description="size of the model: tiny trains in minutes on a CPU, base is the model of the paper"
    )
    init_from: str | None = Field(
        SCRATCH,
        description=f"folder of the model whose weights training starts from; {SCRATCH} or null: random weights",
    )
    vision: str | None = Field(
        SCRATCH,
        description="folder or hub id of a vision backbone with feature maps or patch tokens; "
        f"{SCRATCH} or null: the preset's ResNet",
    )
    text: str | None = Field(
        SCRATCH, description=f"folder or hub id of a BERT encoder; {SCRATCH} or null: the preset's with random weights"
    )
    dual_encoder: str | None = Field(
        SCRATCH,
        description="folder or hub id of a CLIP or SigLIP model, whose zero-shot score retrieval starts from; "
        f"other tasks use its vision encoder; {SCRATCH} or null: none",
    )
    image_size: int | None = Field(
        None,
        ge=32,
        le=2048,
        description="side of the square input image in pixels; null: model.vision's or model.dual_encoder's, if any",
    )
    resize: Literal["pad", "crop", "stretch"] | None = Field(
        None,
        description="how a frame becomes a square: pad, with zeros at its right or bottom, as in the paper; crop, its "
        "center; stretch; null: model.dual_encoder's or model.init_from's, else pad",
    )
    clips: int | None = Field(None, ge=1, le=64, description="clips sampled from a video in one training step")
    frames_per_clip: int | None = Field(None, ge=1, le=64, description="frames of a clip, combined by frame_fusion")
    frame_fusion: Literal["mean", "concat", "attention", "conv3d"] | None = Field(
        None, description="how the frames of a clip are combined; mean, as in the paper, ignores their order"
    )
    score_aggregation: Literal["lse", "mean", "max"] | None = Field(
        None, description="how the scores of the clips of a video are combined"
    )
    hidden_size: int | None = Field(None, ge=16, le=4096, description="width of the transformer encoder")
    num_hidden_layers: int | None = Field(None, ge=1, le=64, description="layers of the transformer encoder")
    num_attention_heads: int | None = Field(
        None, ge=1, le=64, description="attention heads of a layer; must divide hidden_size"
    )
    max_text_length: int | None = Field(
        None, ge=4, le=512, description="maximum tokens of a text; longer texts are truncated"
    )
    vocab_size: int = Field(8192, ge=64, description="size of the WordPiece vocabulary learned from the training texts")

    @property
    def start_from(self) -> str | None:
        """Folder of the model that training starts from; None for random weights."""
        return None if self.init_from == SCRATCH else self.init_from

    @property
    def vision_from(self) -> str | None:
        """Folder or hub id of the vision backbone; None for the preset's."""
        return None if self.vision == SCRATCH else self.vision

    @property
    def text_from(self) -> str | None:
        """Folder or hub id of the text encoder; None for the preset's."""
        return None if self.text == SCRATCH else self.text

    @property
    def dual_encoder_from(self) -> str | None:
        """Folder or hub id of the pretrained dual encoder; None: none."""
        return None if self.dual_encoder == SCRATCH else self.dual_encoder

    @property
    def is_pretrained(self) -> bool:
        """Whether a part of the model starts from trained weights."""
        return any((self.start_from, self.vision_from, self.text_from, self.dual_encoder_from))

    def resolve_init_from(self, task: str, project: Project) -> "ModelParams":
        """Return the parameters for a task when `init_from` names the model that pretraining writes.

        Pretraining itself starts from `vision` or `dual_encoder`, and `text`; the other tasks start from the pretrained
        model, which includes them.

        Raises:
            ClipBertError: the task would start from the folder that it writes.
        """
        if self.start_from is None:
            return self
        start = (project.root / self.start_from).resolve()
        pretraining = [name for name in task_names("pretrain_run") if start == project.model(name).resolve()]
        if pretraining:
            parts = {"vision": None, "text": None, "dual_encoder": None}
            unset: dict[str, Any] = {"init_from": None} if task in pretraining else parts
            return self.model_copy(update=unset)
        if start == project.model(task).resolve():
            raise ClipBertError(
                f"model.init_from: {self.init_from} is the folder that this training writes. Start from another "
                "folder, or set model.init_from to null."
            )
        return self

    def overrides(self) -> dict[str, Any]:
        """Return the configuration fields that replace values of the preset."""
        sources = {"init_from", "vision", "text", "dual_encoder", "resize"}
        chosen = self.model_dump(exclude={"preset", "vocab_size", *sources}, exclude_none=True)
        if "hidden_size" in chosen:
            chosen["intermediate_size"] = 4 * chosen["hidden_size"]
        return chosen


class EvaluateParams(Section):
    """Evaluation of a trained model."""

    clips: int = Field(2, ge=1, le=64, description="clips of a video, evenly in time")
    batch_size: int = Field(256, ge=1, description="text-video pairs in one forward pass")
    rerank_top_k: int | Literal["auto"] | None = Field(
        "auto",
        description="retrieval: number of videos, best by the dual encoder, that the cross-encoder scores; null: all; "
        "auto: all of up to 500 videos, above that as many as the validation split needs for the same recall",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="retrieval: number type of matrix products and convolutions; auto: the faster one"
    )
    processes: int = Field(
        1, ge=1, le=1024, description="retrieval: processes that share the videos, on this machine, at most one per GPU"
    )

    @field_validator("rerank_top_k", mode="before")
    @classmethod
    def _a_number_or_auto(cls, value: Any) -> Any:
        if value in (None, "auto") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("an integer of at least 1, auto or null")


class ReleaseParams(Section):
    """Names in the model registry. The rules of promotion are in mlflow/promotion.yaml."""

    name: str = Field(
        "clipbert",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="prefix of experiments and registered models, NAME-TASK; unique per project on an MLflow server",
    )


class Params(Section):
    """All sections of params.yaml."""

    tasks_run: list[TaskName] = Field(
        ["retrieval", "open_qa"], description="tasks that `dvc repro` trains, evaluates and registers"
    )
    pretrain_run: list[PretrainingTaskName] = Field(
        [], max_length=1, description="task that `dvc repro` trains first, as the start of others; [] for none"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of training and of the promotion bootstrap")
    ingest: IngestParams = IngestParams()
    inbox: InboxParams = InboxParams()
    validate_: ValidateParams = Field(ValidateParams(), alias="validate")
    frames: FramesParams = FramesParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    tasks: TasksParams = Field(default_factory=TasksParams)
    evaluate: EvaluateParams = EvaluateParams()
    release: ReleaseParams = ReleaseParams()

    @model_validator(mode="after")
    def _frames_large_enough(self) -> "Params":
        if self.image_size is not None and self.frames.size < self.image_size:
            raise ValueError(
                f"frames.size = {self.frames.size} is smaller than the model's image_size = {self.image_size}: "
                f"cached frames would be enlarged; set frames.size to {self.image_size} or more"
            )
        return self

    @property
    def image_size(self) -> int | None:
        """Side of the square input image in pixels; None: that of `model.vision` or `model.dual_encoder`."""
        if self.model.image_size is None and (self.model.vision_from or self.model.dual_encoder_from):
            return None
        return self.model.image_size or {"tiny": 96, "small": 224, "base": 448}[self.model.preset]

    def flat(self) -> dict[str, Any]:
        """Return every parameter by its dotted path: {"train.lr": 0.001, ...}."""
        return _flat(self)

    def training_parameters(self, task: str) -> dict[str, Any]:
        """Return the parameters that a training depends on, by dotted path, as DVC lists them for its stage.

        They are written to checkpoints, the model card and the report, so passwords in URLs are hidden.
        """
        return self._recorded("seed", "model.", "train.", f"tasks.{task}.", "frames.", "evaluate.clips")

    def recorded_parameters(self, task: str) -> dict[str, Any]:
        """Return the parameters of a task's whole pipeline by dotted path, for MLflow; passwords in URLs are hidden."""
        sections = ("ingest.", "validate.", "frames.", "model.", "train.", "evaluate.", "release.")
        return self._recorded("seed", f"tasks.{task}.", *sections)

    def _recorded(self, *prefixes: str) -> dict[str, Any]:
        chosen = {name: value for name, value in self.flat().items() if name.startswith(prefixes)}
        redacted: dict[str, Any] = redact_values(chosen)
        return redacted


def _flat(section: Section, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{field.alias or name}"
        found |= _flat(value, f"{path}.") if isinstance(value, Section) else {path: value}
    return found


def set_task_section(task: str, section: type[TaskSection] | None) -> None:
    """Add the section of a task to the parameters, or remove it (None); `clipbert.tasks.register_task` calls this."""
    if section is None:
        del TasksParams.model_fields[task]
    else:
        TasksParams.model_fields[task] = FieldInfo.from_annotated_attribute(section, section())  # type: ignore[call-arg]
    TasksParams.model_rebuild(force=True)
    for name in ("tasks_run", "pretrain_run"):
        entry: Any = Literal[task_names(name)]
        Params.model_fields[name].annotation = list[entry]
    Params.model_rebuild(force=True)
