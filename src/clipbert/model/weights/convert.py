"""Conversion of checkpoints of the authors' code to model folders and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.resnet.modeling_resnet import ResNetBackbone, ResNetConfig

from clipbert import __version__
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, atomic_write, sha256_file, write_json
from clipbert.files.leftovers import follow_umask
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.heads import ClipBertForMultipleChoice, ClipBertForOpenQA, ClipBertForRetrieval
from clipbert.model.pretraining import ClipBertForPreTraining
from clipbert.model.processor import ClipBertProcessor
from clipbert.model.tokenizer import load_tokenizer
from clipbert.model.weights.card import CardText, model_card, table, write_card
from clipbert.model.weights.checksums import sign_folder
from clipbert.model.weights.load import load, quiet
from clipbert.model.weights.original import (
    BATCH_NORM_EPSILON,
    FIRST_CONVOLUTION,
    Translated,
    backbone_name,
    detectron_name,
    original_name,
    resnet_config,
    restore,
    swap_channels,
    translate,
)
from clipbert.model.weights.read_checkpoint import read_answers, read_checkpoint, read_model_config

KEPT_FILE = "original.safetensors"  # what the original has and ClipBERT does not use
MEAN = [123.675, 116.28, 103.53]  # RGB; the original subtracts the same numbers in BGR order


def convert(
    original: Path,
    model_config: Path,
    task: str,
    card: CardText,
    out: Path,
    answers: Path | None = None,
    tokenizer: str | None = None,
) -> PreTrainedModel:
    """Convert a checkpoint of the authors' code to the model folder `out`.

    Args:
        original: checkpoint file.
        model_config: JSON file of their code (base_model.json).
        task: name of the task of the model.
        card: what the model card says of the task.
        out: model folder to write.
        answers: file of the answer vocabulary, for the QA tasks.
        tokenizer: folder or hub id (they used bert-base-uncased); None: no processor is written.

    Raises:
        ClipBertError: a file cannot be read, a weight is missing, unknown or of another shape, or the task needs
            answers; each name is listed.
    """
    _check_out(out)
    vocabulary = None if tokenizer is None else load_tokenizer(tokenizer)
    fields = read_model_config(model_config)
    state = read_checkpoint(original)
    found = translate(state)
    model = _fresh_model(original, state, found, task, fields, answers)
    if vocabulary is not None and len(vocabulary) != model.config.vocab_size:
        raise ClipBertError(
            f"--tokenizer {tokenizer}: {len(vocabulary)} tokens, but {original} has word embeddings of "
            f"{model.config.vocab_size}. Give the tokenizer it was trained with (bert-base-uncased)."
        )
    fresh = _fill(model, found, original)
    with quiet(), atomic_directory(out) as folder:
        model.save_pretrained(folder)
        meta = {"types": json.dumps(found.types, sort_keys=True)}
        save_file({name: value.clone() for name, value in found.kept.items()}, folder / KEPT_FILE, metadata=meta)
        follow_umask(folder / KEPT_FILE)
        if vocabulary is not None:
            ClipBertProcessor.for_config(model.config, vocabulary).save_pretrained(folder)
        made = [("a checkpoint of the authors' code", original.name), ("its SHA-256", sha256_file(original))]
        made += [("fresh, to be trained", "the task head")] if fresh else []
        lineage = table(("made from", ""), [*made, ("tokenizer", tokenizer or "none yet"), ("clipbert", __version__)])
        write_card(folder, model_card(card, str(out), type(model).__name__, {"Lineage": lineage}))
        sign_folder(folder)
    _report(found, fresh, original, out, tokenizer)
    return model


def convert_backbone(original: Path, out: Path) -> ResNetBackbone:
    """Convert a detectron2 ResNet-50 (R-50.pkl of MSRA, grid_feat_R-50.pth) to a backbone folder for `model.vision`.

    Raises:
        ClipBertError: the file cannot be read, or a weight of the ResNet is missing or unknown.
    """
    _check_out(out)
    state = _detectron_resnet(read_checkpoint(original), original)
    config = _vision(state, original)
    config.pop("model_type")
    model = ResNetBackbone(ResNetConfig(**config, out_features=[f"stage{len(config['depths'])}"]))
    weights: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        ours = backbone_name(name)
        if ours is None:
            unknown.append(name)
        else:
            single = value.float()
            weights[ours.removeprefix("vision.backbone.")] = (
                swap_channels(single) if ours == FIRST_CONVOLUTION else single
            )
    problems = _problems(model, weights, lambda name: detectron_name(f"vision.backbone.{name}") or name)
    problems["unknown"] += unknown
    _refuse(problems, original)
    model.load_state_dict(weights, strict=False)
    with quiet(), atomic_directory(out) as folder:
        model.save_pretrained(folder)
        write_json(
            folder / "preprocessor_config.json",
            {"do_rescale": False, "do_normalize": True, "image_mean": MEAN, "image_std": [1.0, 1.0, 1.0]},
        )
        for saved in folder.glob("*.safetensors"):
            follow_umask(saved)
        sign_folder(folder)
    console.print(f"{out}: a ResNet backbone for model.vision ({len(weights)} weights from {original})")
    return model


def to_original(model_dir: Path, out: Path) -> dict[str, Tensor]:
    """Convert a model folder back to a checkpoint of the authors' code, written to the file `out`.

    A converted and unchanged model gives the original weights, bit for bit and in their dtypes, without the detector
    around the ResNet.

    Raises:
        ClipBertError: the folder is not a model, or has weights that do not exist in the original architecture.
    """
    if out.is_dir():
        raise ClipBertError(
            f"--out {out}: is a folder: expected the checkpoint file to write, for example original.pt."
        )
    model = load(model_dir)
    kept: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    if (path := model_dir / KEPT_FILE).is_file():
        try:
            with safe_open(path, framework="pt") as file:
                types = json.loads((file.metadata() or {}).get("types", "{}"))
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise ClipBertError(f"{path}: cannot be read ({error}). Convert the original again.") from error
    vision = dict(model.config.vision)
    expected = {"model_type": "resnet", "layer_type": "bottleneck", "downsample_in_bottleneck": True}
    for name, value in expected.items():
        if vision.get(name) != value:
            raise ClipBertError(
                f"{model_dir / 'config.json'}: vision.{name} is {vision.get(name)!r}: the original's code knows "
                f"{value!r} only. Such a model cannot go back."
            )
    try:
        state = restore(model.state_dict(), kept, types)
    except ValueError as error:
        raise ClipBertError(
            f"{model_dir}: the original's code has no place for {error}. Leave these parts out."
        ) from error
    if [float(value) for value in model.config.image_mean] != MEAN or set(model.config.image_std) != {1.0}:
        raise ClipBertError(
            f"{model_dir / 'config.json'}: image_mean is {model.config.image_mean} and image_std "
            f"{model.config.image_std}: the original's code knows {MEAN} and ones only. Such a model cannot go back."
        )
    with atomic_write(out) as file:
        torch.save(state, file)
    console.print(f"{out}: {len(state)} weights under the original's names")
    return state


def _check_out(out: Path) -> None:
    """Refuse to replace anything but a model folder."""
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise ClipBertError(f"--out {out}: holds other things than a model: name a new folder.")
    if out.exists() and not out.is_dir():
        raise ClipBertError(f"--out {out}: is a file: expected the model folder to write.")


def _fresh_model(
    original: Path, state: dict[str, Tensor], found: Translated, task: str, fields: dict[str, Any], answers: Path | None
) -> PreTrainedModel:
    resnet = {
        name.removeprefix("cnn.feature.backbone."): value
        for name, value in state.items()
        if name.startswith("cnn.feature.backbone.")
    }
    # a small model may have fewer text positions than the paper's 32 tokens
    longest = min(ClipBertConfig.max_text_length, fields["max_position_embeddings"] // 8 * 8)
    fields = fields | {"vision": _vision(resnet, original), "max_text_length": longest}
    labels = found.weights["classifier.2.weight"].shape[0] if "classifier.2.weight" in found.weights else None
    if task in ("open_qa", "image_qa"):
        if answers is None:
            raise ClipBertError(
                f"--answers is missing: {task} needs the answer vocabulary in the order of the classifier"
                f"{'' if labels is None else f' ({labels} answers)'}: a JSON list, or the authors' ans2label file."
            )
        vocabulary = read_answers(answers)
        if labels is not None and labels != len(vocabulary):
            raise ClipBertError(
                f"{answers}: {len(vocabulary)} answers, but the classifier of {original} has {labels} outputs. Give "
                "the vocabulary it was trained with."
            )
        fields |= {"answers": vocabulary, "answer_loss": "bce" if task == "image_qa" else "ce"}
    if task == "retrieval" and labels == 1:
        fields["retrieval_loss"] = "ranking"
    kinds: dict[str, Any] = {
        "retrieval": ClipBertForRetrieval,
        "open_qa": ClipBertForOpenQA,
        "image_qa": ClipBertForOpenQA,
        "multiple_choice": ClipBertForMultipleChoice,
        "pretrain": ClipBertForPreTraining,
    }
    try:
        model: PreTrainedModel = kinds[task](ClipBertConfig(**fields))
    except ValueError as error:
        raise ClipBertError(f"--model-config: {error} (with what {original} holds)") from error
    return model.eval()


def _vision(resnet: dict[str, Tensor], original: Path) -> dict[str, Any]:
    try:
        return resnet_config({name: tuple(value.shape) for name, value in resnet.items()})
    except ValueError as error:
        raise ClipBertError(
            f"{original}: the weight {error} of the ResNet is missing: expected a checkpoint of the authors' code or a "
            "detectron2 ResNet with bottleneck blocks."
        ) from None


def _fill(model: PreTrainedModel, found: Translated, original: Path) -> list[str]:
    """Load the weights into the model; return the names of head weights that stay randomly initialized."""
    if found.untied:
        raise ClipBertError(
            f"{original}: {', '.join(found.untied)} differ from the embeddings they are tied to in ClipBERT: the file "
            "is not an unchanged checkpoint of the authors' code."
        )
    head = "cls." if isinstance(model, ClipBertForPreTraining) else "classifier."
    other = "classifier." if head == "cls." else "cls."
    weights = {name: value for name, value in found.weights.items() if not name.startswith(other)}
    problems = _problems(model, weights, lambda name: original_name(name) or name)
    classifier = [f"transformer.{name}" for name in model.state_dict() if name.startswith("classifier.")]
    fresh = [name for name in problems["missing"] if name in classifier]
    if len(fresh) < len(classifier):
        fresh = []  # half a head is a broken file
    problems["missing"] = [name for name in problems["missing"] if name not in fresh]
    problems["unknown"] += found.unexpected
    _refuse(problems, original)
    found.other_head = len(found.weights) - len(weights)
    model.load_state_dict(weights, strict=False)
    return fresh


def _problems(model: torch.nn.Module, weights: dict[str, Tensor], theirs: Callable[[str], str]) -> dict[str, list[str]]:
    """Return missing, unknown and mis-shaped weights, under the names of the file, which `theirs` gives."""
    expected = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.endswith(("num_batches_tracked", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"))
    }
    return {
        "missing": [theirs(name) for name in expected if name not in weights],
        "unknown": [theirs(name) for name in weights if name not in expected],
        "mis-shaped": [
            f"{theirs(name)} {tuple(weights[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in weights and tuple(weights[name].shape) != shape
        ],
    }


def _refuse(problems: dict[str, list[str]], original: Path) -> None:
    lines = [f"  {len(names)} {kind}: {'; '.join(sorted(names))}" for kind, names in problems.items() if names]
    if lines:
        raise ClipBertError(
            f"{original}: the weights do not fit the model:\n" + "\n".join(lines) + "\nGive the --model-config and the "
            "--task that the file was trained with; nothing was written."
        )


def _detectron_resnet(state: dict[str, Tensor], original: Path) -> dict[str, Tensor]:
    """Return the ResNet weights of a detectron2 file as `stem.conv1.weight`, `res2.0.conv1.norm.bias`, ..."""
    if "conv1_w" in state:
        return _from_caffe2(state)
    prefix = next((n.removesuffix("stem.conv1.weight") for n in state if n.endswith("stem.conv1.weight")), None)
    if prefix is None:
        raise ClipBertError(
            f"{original}: no detectron2 ResNet in it: neither a weight called ...stem.conv1.weight nor conv1_w. "
            "Expected R-50.pkl (MSRA) or grid_feat_R-50.pth."
        )
    parts = (f"{prefix}stem.", *(f"{prefix}res{stage}." for stage in range(2, 6)))
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(parts) and not name.endswith("num_batches_tracked")
    }


def _from_caffe2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of MSRA's file (`res2_0_branch2a_w`, `_bn_s`, `_bn_b`).

    A batch norm is stored as scale and bias there; mean 0 and variance 1 - epsilon give the same result.
    """
    branches = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
    kinds = {"w": "weight", "bn_s": "norm.weight", "bn_b": "norm.bias"}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = name.split("_")
        if name == "conv1_w":
            target = "stem.conv1.weight"
        elif name in ("res_conv1_bn_s", "res_conv1_bn_b"):
            target = f"stem.conv1.{kinds[name.removeprefix('res_conv1_')]}"
        elif len(parts) >= 4 and parts[2] in branches and "_".join(parts[3:]) in kinds:
            target = f"{parts[0]}.{parts[1]}.{branches[parts[2]]}.{kinds['_'.join(parts[3:])]}"
        else:
            continue  # the classifier of ImageNet, and biases that are folded into the norms
        found[target] = value
        if target.endswith("norm.weight"):
            norm = target.removesuffix("weight")
            found[f"{norm}running_mean"] = torch.zeros_like(value)
            found[f"{norm}running_var"] = torch.full_like(value, 1 - BATCH_NORM_EPSILON)
    return found


def _report(found: Translated, fresh: list[str], original: Path, out: Path, tokenizer: str | None) -> None:
    lines = [f"{out}: {len(found.weights) - found.other_head} weights from {original}"]
    if found.detector:
        lines.append(f"  {len(found.detector)} weights of the detector around the ResNet are not needed and left out")
    if found.other_head:
        lines.append(f"  {found.other_head} weights of another task's head are left out")
    if fresh:
        lines.append(f"  the task head is fresh, to be trained: {', '.join(fresh)}")
    if tokenizer is None:
        lines.append(
            "  no processor: the original used bert-base-uncased; add it with --tokenizer FOLDER_OR_ID and run again"
        )
    for line in lines:
        console.print(line)
