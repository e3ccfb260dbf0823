"""Writing of an export: a folder with a file for each part, checked against the model."""

import contextlib
import importlib.metadata
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbert import __version__
from clipbert.errors import ClipBertError, first_line
from clipbert.export.parts import BATCH, CLIPS, LENGTH, MOST, SIZES, Part, export_parts, similarity_constants
from clipbert.files.atomic import atomic_directory, write_json
from clipbert.files.checksums import write_checksums
from clipbert.inference.pipelines import pipeline
from clipbert.model.processor import PAD_TO_MULTIPLE_OF
from clipbert.model.weights.init_from import digest

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-4  # largest difference from the model, relative to the largest value where that is above 1
OPSET = 20
SETTINGS = "export.json"
EXAMPLE = "example.py"
Arrays = list[NDArray[Any]]
Run = Callable[[tuple[Tensor, ...]], Arrays]


@dataclass(frozen=True)
class ExportedPart:
    """File of an export.

    Attributes:
        path: of the file.
        size: bytes, with external weights.
        difference: largest absolute difference from the model over the checked sizes.
    """

    name: str
    path: Path
    size: int
    difference: float


def export_model(
    folder: Path, out: Path, form: str = "onnx", progress: Callable[[str], None] = lambda _: None
) -> list[ExportedPart]:
    """Write a model folder as `form` into the folder `out`, which is replaced when all parts are right.

    Each part is run with three combinations of batch, clips and length and compared with the model.

    Args:
        folder: of a trained task.
        form: "onnx" or "pt2", a program of `torch.export`.
        progress: receives a line for each part.

    Raises:
        ClipBertError: an unknown format, no usable model, a package that is missing, a part that cannot be exported or
            differs by more than `TOLERANCE`, or a folder that cannot be written.
    """
    if form not in FORMATS:
        raise ClipBertError(f"--format {form}: expected one of {', '.join(FORMATS)}.")
    if (out / "config.json").exists() or (out.exists() and any(out.iterdir()) and not (out / SETTINGS).is_file()):
        raise ClipBertError(
            f"--output {out}: holds other files: expected an earlier export, an empty folder or nothing."
        )
    loaded = pipeline(None, folder, device="cpu")
    model, processor = loaded.model.eval(), loaded.processor
    written: list[ExportedPart] = []
    with atomic_directory(out) as fresh:
        parts = export_parts(model, processor)
        for part in parts:
            progress(f"{part.name}: {part.about}")
            written.append(_export_part(part, model, fresh, form))
        _copy_tokenizers(folder, fresh)
        write_json(fresh / SETTINGS, _settings(loaded, folder, form, parts, written), sort_keys=False)
        if form == "onnx":
            shutil.copyfile(Path(__file__).with_name(EXAMPLE), fresh / EXAMPLE)
        write_checksums(fresh, [path for path in sorted(fresh.rglob("*")) if path.is_file()])
    return [ExportedPart(each.name, out / each.path.name, each.size, each.difference) for each in written]


def _export_part(part: Part, model: Any, folder: Path, form: str) -> ExportedPart:
    path = folder / f"{part.name}.{form}"
    inputs = part.make_inputs(*SIZES[0])
    with _quiet() as log:
        try:
            with torch.no_grad():
                program = torch.export.export(part.module, inputs, dynamic_shapes={"inputs": _shapes(part, model)})
                if form == "pt2":
                    torch.export.save(program, path)
                else:
                    _save_onnx(program, part, path)
        except Exception as error:  # torch's exporters raise anything for what they do not support
            raise ClipBertError(
                f"{part.name}: this model cannot be exported as {form}: {type(error).__name__}: {first_line(error)}"
                f"{log.getvalue()[-300:]}"
            ) from error
    run = _run_onnx(path, part) if form == "onnx" else _run_program(path)
    difference = _largest_difference(part, run)
    files = [path, *folder.glob(f"{path.name}.data")]
    return ExportedPart(part.name, path, sum(file.stat().st_size for file in files), difference)


def _shapes(part: Part, model: Any) -> tuple[dict[int, Any], ...]:
    """Return the dynamic axes of the inputs, as torch.export takes them."""
    bounds = {**MOST, LENGTH: int(model.config.max_position_embeddings)}
    sizes = {name: torch.export.Dim(name, min=1, max=most) for name, most in bounds.items()}
    return tuple({axis: sizes[name] for axis, name in axes.items()} for axes in part.inputs.values())


def _save_onnx(program: Any, part: Part, path: Path) -> None:
    """Write a program as ONNX, with readable names of inputs, outputs and axes."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
    )
    assert exported is not None
    graph = exported.model.graph
    names: dict[str, str] = {}
    for value, axes in zip(graph.inputs, part.inputs.values(), strict=True):
        if value.shape is not None:
            names |= {str(value.shape[axis]): name for axis, name in axes.items()}
    for value in (*graph.inputs, *graph.outputs):
        for axis, size in enumerate(value.shape or ()):
            if value.shape is not None and str(size) in names:
                value.shape[axis] = names[str(size)]
    exported.model.doc_string = part.about
    exported.save(path)


def _run_onnx(path: Path, part: Part) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Arrays:
        feed = {name: value.numpy() for name, value in zip(part.inputs, inputs, strict=True)}
        return list(session.run(list(part.outputs), feed))

    return run


def _run_program(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> Arrays:
        with torch.no_grad():
            return [value.numpy() for value in _tuple(module(*inputs))]

    return run


def _largest_difference(part: Part, run: Run) -> float:
    """Return the largest absolute difference of a part from the model.

    Raises:
        ClipBertError: it is above `TOLERANCE`, or a size cannot be run.
    """
    largest = 0.0
    for sizes in SIZES:
        inputs = part.make_inputs(*sizes)
        with torch.no_grad():
            expected = [value.numpy() for value in _tuple(part.module(*inputs))]
        named = ", ".join(f"{name} {size}" for name, size in zip((BATCH, CLIPS, LENGTH), sizes, strict=True))
        try:
            found = run(inputs)
        except Exception as error:  # an error of onnxruntime or of torch
            raise ClipBertError(f"{part.name}: the export fails with {named}: {first_line(error)}") from error
        for name, own, theirs in zip(part.outputs, expected, found, strict=True):
            difference = float(np.abs(own - theirs).max())
            if own.shape != theirs.shape or not difference <= TOLERANCE * max(1.0, float(np.abs(own).max())):
                raise ClipBertError(
                    f"{part.name}: {name} differs by {difference:.2g} from the model with {named}: expected at most "
                    f"{TOLERANCE:g} of its largest value. Nothing was written."
                )
            largest = max(largest, difference)
    return largest


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _settings(loaded: Any, folder: Path, form: str, parts: list[Part], written: list[ExportedPart]) -> dict[str, Any]:
    """Return what a program needs to know to use the files."""
    model, processor = loaded.model, loaded.processor
    tokenizer = processor.tokenizer
    settings: dict[str, Any] = {
        "format": form,
        "task": loaded.task,
        "model": type(model).__name__,
        "model_sha256": digest(folder),
        "clipbert": __version__,
        "torch": importlib.metadata.version("torch"),
        "frames": processor.candidates.model_dump(include={"fps", "size", "max_frames", "sampling"}),
        "clips": processor.clips,
        "frames_per_clip": processor.frames_per_clip,
        "image_size": processor.image_size,
        "resize": processor.resize,
        "max_text_length": processor.max_text_length,
        "pad_to_multiple_of": PAD_TO_MULTIPLE_OF,
        "tokens": {"pad": tokenizer.pad_token_id, "start": tokenizer.cls_token_id, "end": tokenizer.sep_token_id},
    }
    if getattr(model, "pretrained", None) is not None:
        settings["dual_tokenizer"] = {"max_text_length": processor.dual_tokenizer.length}
    if any(part.name == "text_encoder" for part in parts):
        settings["similarity"] = dict(zip(("scale", "bias"), similarity_constants(model), strict=True))
    if model.config.answers:
        settings |= {"answers": list(model.config.answers), "answer_loss": model.config.answer_loss}
    if loaded.task == "captioning":
        settings["generation"] = loaded.generation({})
    settings["parts"] = {
        part.name: {
            "file": file.path.name,
            "about": part.about,
            "inputs": {name: list(axes.values()) for name, axes in part.inputs.items()},
            "outputs": part.outputs,
            "largest_difference": file.difference,
        }
        for part, file in zip(parts, written, strict=True)
    }
    return settings


def _copy_tokenizers(folder: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    for other in folder.iterdir():
        if other.is_dir() and any(other.glob("*tokenizer*")):
            shutil.copytree(other, out / other.name)


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep the progress and the warnings of torch's exporters from the terminal."""
    text = io.StringIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(text):
            warnings.simplefilter("ignore")
            yield text
    finally:
        logger.setLevel(level)
