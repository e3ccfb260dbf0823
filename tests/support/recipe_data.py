"""Official annotation files of a few media, in the layout of each data set of the recipes, and what they start from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BertConfig, BertForMaskedLM, ResNetBackbone, ResNetConfig

from clipbert.files.atomic import write_json
from clipbert.model import ClipBertConfig, ClipBertForPreTraining, ClipBertProcessor

SPLITS = {"train": 6, "val": 2, "test": 2}
OPTIONS = "a1\ta2\ta3\ta4\ta5"
PARAGRAPH = {"duration": 2.0, "timestamps": [[0, 1], [1, 2]], "sentences": ["A bar grows.", "It ends."]}


def names(split: str) -> list[int]:
    """The numbers of the media of a split."""
    first = {"train": 0, "val": 6, "test": 8}[split]
    return list(range(first, first + SPLITS[split]))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def msrvtt(folder: Path) -> list[str]:
    official = {"train": "train", "val": "validate", "test": "test"}
    videos = [{"video_id": f"video{i}", "split": official[split]} for split in SPLITS for i in names(split)]
    told = [
        {"video_id": f"video{i}", "sen_id": 2 * i + k, "caption": f"bar {i} {k}"} for i in range(10) for k in (0, 1)
    ]
    write(folder / "videodatainfo.json", {"videos": videos, "sentences": told})
    pairs = "".join(f"ret{i},msr{i},video{i},bar {i} 0\n" for i in names("test"))
    write(folder / "MSRVTT_JSFUSION_test.csv", f"key,vid_key,video_id,sentence\n{pairs}")
    return ["msrvtt", "annotations", "media", "--split", "7k"]


def msrvtt_mc(folder: Path) -> list[str]:
    rows = "".join(f"MC{i}\tmsr{i}\tbar 0\tbar 1\tbar 2\tbar 3\tbar 4\t{i % 5}\n" for i in names("test"))
    write(folder / "MSR_MC_test.csv", f"key\tvid_key\t{OPTIONS}\tanswer\n{rows}")
    return [*msrvtt(folder), "--mc", "annotations/MSR_MC_test.csv"]


def didemo(folder: Path) -> list[str]:
    for split in SPLITS:
        moments = [{"video": f"video{i}.mp4", "description": f"bar {i} {k}"} for i in names(split) for k in (0, 1)]
        write(folder / f"{split}_data.json", moments)
    return ["didemo", "annotations", "media"]


def activitynet(folder: Path) -> list[str]:
    write(folder / "train.json", {f"video{i}": PARAGRAPH for i in range(8)})
    write(folder / "val_1.json", {f"video{i}": PARAGRAPH for i in names("test")})
    return ["activitynet_captions", "annotations", "media", "--hold-out", "val=0.3"]


def msrvtt_qa(folder: Path) -> list[str]:
    for split in SPLITS:
        asked = [
            {"answer": ("red", "blue")[i % 2], "category_id": 1, "id": i, "question": "what is it?", "video_id": i}
            for i in names(split)
        ]
        write(folder / f"{split}_qa.json", asked)
    return ["msrvtt_qa", "annotations", "media"]


def tgif(task: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        choice = task != "frameqa"
        header = f"gif_name\tquestion\t{OPTIONS}\tanswer" if choice else "gif_name\tquestion\tanswer\ttype"
        for name, numbers in (("Train", range(8)), ("Test", names("test"))):
            rows = ""
            for i in numbers:
                answer = f"a\tb\tc\td\te\t{i % 5}" if choice else f"{('red', 'blue')[i % 2]}\t2"
                rows += f"video{i}\twhat is it ?\t{answer}\tID{i}\t{i}\n"
            write(folder / f"{name}_{task}_question.csv", f"{header}\tvid_id\tkey\n{rows}")
        return ["tgif_qa", "annotations", "media", "--task", task, "--hold-out", "val=0.3"]

    return make


def vqa2(folder: Path) -> list[str]:
    for split, numbers in (("train", range(8)), ("val", names("test"))):
        year = f"mscoco_{split}2014"
        asked = [
            {"image_id": i, "question": f"what is {k}?", "question_id": 9 * i + k} for i in numbers for k in (0, 1)
        ]
        told = [
            {
                "question_id": row["question_id"],
                "image_id": row["image_id"],
                "answer_type": "other",
                "multiple_choice_answer": ("yes", "no")[row["image_id"] % 2],
                "answers": [{"answer": answer} for answer in [("yes", "no")[row["image_id"] % 2]] * 10],
            }
            for row in asked
        ]
        write(folder / f"v2_OpenEnded_{year}_questions.json", {"questions": asked})
        write(folder / f"v2_{year}_annotations.json", {"annotations": told})
    return ["vqa2", "annotations", "media", "--hold-out", "test=0.3"]


def coco(folder: Path) -> list[str]:
    images = [
        {
            "filename": f"{coco_name(i)}.jpg",
            "split": split,
            "sentences": [{"raw": f"a {split} picture {i} {k}", "sentid": 2 * i + k} for k in (0, 1)],
        }
        for split in SPLITS
        for i in names(split)
    ]
    write(folder / "dataset_coco.json", {"images": images})
    return ["coco_captions", "annotations/dataset_coco.json", "media"]


LAYOUTS: dict[str, Callable[[Path], list[str]]] = {
    "msrvtt_retrieval": msrvtt,
    "didemo_retrieval": didemo,
    "activitynet_retrieval": activitynet,
    "msrvtt_mc": msrvtt_mc,
    "msrvtt_qa": msrvtt_qa,
    "tgif_qa_action": tgif("action"),
    "tgif_qa_transition": tgif("transition"),
    "tgif_qa_frameqa": tgif("frameqa"),
    "vqa2": vqa2,
    "coco_vg_pretrain": coco,
}
IMAGES = ("vqa2", "coco_vg_pretrain")


def coco_name(number: int) -> str:
    """As COCO names the image: those of val2014 are the last two."""
    return f"COCO_{'val' if number in names('test') else 'train'}2014_{number:012d}"


def make_official(root: Path, recipe: str, tiny_video: Callable[..., Path]) -> list[str]:
    """annotations/ and media/ below `root`, and the arguments of `clipbert import` that read them."""
    for i in range(sum(SPLITS.values())):
        if recipe in IMAGES:
            picture = Image.linear_gradient("L").resize((64, 48)).rotate(36 * i).convert("RGB")
            (root / "media").mkdir(parents=True, exist_ok=True)
            picture.save(root / "media" / f"{coco_name(i)}.jpg")
        else:
            tiny_video(root / "media" / f"video{i}.mp4", seed=i)
    return LAYOUTS[recipe](root / "annotations")


def make_starts(root: Path) -> None:
    """The smallest of what recipes start from: models/grid-feat-resnet50 and models/bert-base-uncased, as `clipbert
    convert` and `save_pretrained` write them, and a pretrained model in artifacts/models/pretrain."""
    torch.manual_seed(0)
    tokenizer = ClipBertProcessor.train_tokenizer(["a bar grows", "what is it", "red blue yes no 0123456789"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    positions = {"max_position_embeddings": 128, "vocab_size": len(tokenizer)}

    resnet = root / "models" / "grid-feat-resnet50"
    shape = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "bottleneck"}
    ResNetBackbone(ResNetConfig(**shape, downsample_in_bottleneck=True, out_features=["stage2"])).save_pretrained(
        resnet
    )
    normalization = {"image_mean": [123.675, 116.28, 103.53], "image_std": [1.0, 1.0, 1.0], "do_rescale": False}
    write_json(resnet / "preprocessor_config.json", normalization)

    bert = root / "models" / "bert-base-uncased"
    BertForMaskedLM(BertConfig(**sizes, **positions)).save_pretrained(bert)
    tokenizer.save_pretrained(str(bert))

    pretrained = root / "artifacts" / "models" / "pretrain"
    config = ClipBertConfig.tiny(**sizes, **positions, image_size=32, max_text_length=32)
    ClipBertForPreTraining(config).save_pretrained(pretrained)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(pretrained)
