"""Folders of small CLIP, SigLIP, SigLIP 2 and ViT models with random weights, as their authors' folders on the hub."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipTokenizer,
    ViTConfig,
    ViTModel,
)

KINDS = ("clip", "siglip", "siglip2")
WORDS = (
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "moves",
    "left",
    "right",
    "up",
    "down",
    "a",
    "the",
    "what",
    "color",
)
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 24, "intermediate_size": 48}
VISION = LAYERS | {"hidden_size": 32, "patch_size": 8, "image_size": 48}
TEXTS = ["a red circle moves left", "the blue square", "what color is it, and where does the green circle go?"]


def write_clip(folder: Path, seed: int = 3, **vision: Any) -> Path:
    """Write a CLIP model whose text half has CLIP's 77 positions and reads the state of the end token."""
    tokenizer = _clip_tokenizer()
    text = LAYERS | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config=VISION | vision, projection_dim=20)
    model = _randomized(CLIPModel, config, seed)
    return _write(folder, model, tokenizer, {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]})


def write_siglip(folder: Path, seed: int = 3, **vision: Any) -> Path:
    """Write a SigLIP model: a pooling head over the patches, and texts padded to 64 tokens."""
    tokenizer = _siglip_tokenizer(folder)
    text = LAYERS | {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
    model = _randomized(SiglipModel, SiglipConfig(text_config=text, vision_config=VISION | vision), seed)
    return _write(folder, model, tokenizer, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def write_siglip2(folder: Path, seed: int = 3, **vision: Any) -> Path:
    """Write a SigLIP 2 model of the kind that takes patches (NaFlex)."""
    tokenizer = _siglip2_tokenizer()
    text = LAYERS | {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
    fields = {name: value for name, value in VISION.items() if name != "image_size"} | {"num_patches": 36} | vision
    model = _randomized(Siglip2Model, Siglip2Config(text_config=text, vision_config=fields), seed)
    return _write(folder, model, tokenizer, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def write_dual_encoder(kind: str, folder: Path, **vision: Any) -> Path:
    """Write a dual encoder of one of `KINDS`."""
    return {"clip": write_clip, "siglip": write_siglip, "siglip2": write_siglip2}[kind](folder, **vision)


def write_vit(folder: Path, seed: int = 3) -> Path:
    """Write a plain ViT without a preprocessor file."""
    _randomized(ViTModel, ViTConfig(**VISION), seed).save_pretrained(folder)
    return folder


def reference(kind: str, folder: Path) -> Any:
    """Return transformers' own model of a folder, in evaluation mode."""
    classes = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}
    return classes[kind].from_pretrained(folder, local_files_only=True).eval()


def siglip2_inputs(pixels: torch.Tensor, patch: int) -> dict[str, torch.Tensor]:
    """Return the inputs of Siglip2Model for images of one size (M, 3, H, W): their patches, as its processor makes."""
    images, channels, height, width = pixels.shape
    rows, cols = height // patch, width // patch
    patches = pixels.reshape(images, channels, rows, patch, cols, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(images, rows * cols, -1),
        "pixel_attention_mask": torch.ones(images, rows * cols, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, cols]] * images),
    }


def _clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with the bytes of the alphabet, each also as the end of a word, and no merges."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def _siglip_tokenizer(folder: Path) -> SiglipTokenizer:
    """Return SigLIP's tokenizer with a SentencePiece model of a few words, which is written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), *WORDS]),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    return SiglipTokenizer(vocab_file=str(folder / "spiece.model"))


def _siglip2_tokenizer() -> Siglip2Tokenizer:
    """Return SigLIP 2's tokenizer, which lowers the case of texts, with an alphabet and no merges."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    pieces = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters)
    return Siglip2Tokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def _randomized(architecture: type[Any], config: Any, seed: int) -> Any:
    """Return a model with noise in every weight, so that no zero bias or unit scale hides a mistake."""
    torch.manual_seed(seed)
    model = architecture(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith("logit_"):
                value.add_(0.1 * torch.randn(value.shape))
            else:
                value.fill_(2.5 if name == "logit_scale" else -3.0)
    return model


def _write(folder: Path, model: Any, tokenizer: Any, normalization: dict[str, Any]) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(normalization))
    return folder
