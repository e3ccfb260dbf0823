"""`clipbert convert`: checkpoints of the authors' code to model folders, and back."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.errors import ClipBertError

TASKS = ("retrieval", "open_qa", "image_qa", "multiple_choice", "pretrain", "backbone")


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="A checkpoint; with --to-original a model folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write; with --to-original the file.")],
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help=f"One of: {', '.join(TASKS)}.")] = None,
    model_config: Annotated[
        Path | None, typer.Option("--model-config", help="The model's JSON file of the authors' code, base_model.json.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="The answer vocabulary of open_qa and image_qa, JSON.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A folder or hub id: bert-base-uncased for the authors' models.")
    ] = None,
    to_original: Annotated[bool, typer.Option("--to-original", help="A model folder back to a checkpoint.")] = False,
) -> None:
    """Convert a checkpoint of the authors' ClipBERT, or a detectron2 ResNet (--task backbone), to a model folder."""
    if not to_original and task not in TASKS:
        raise ClipBertError(f"--task {task}: expected one of {', '.join(TASKS)}: what the checkpoint was trained for.")
    if not to_original and task != "backbone" and model_config is None:
        raise ClipBertError(
            "--model-config is missing: expected the model's JSON file of the authors' code, base_model.json."
        )
    # The weights of a model are heavy to import for: after what the command line can say by itself.
    from clipbert.model.weights import convert as room

    if to_original:
        room.to_original(source, out)
    elif task == "backbone":
        room.convert_backbone(source, out)
    else:
        assert model_config is not None
        assert task is not None
        room.convert(source, model_config, task, out, answers, tokenizer)
