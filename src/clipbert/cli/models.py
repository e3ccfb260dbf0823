"""Commands for model folders: convert, export to ONNX, upload to the hub, and check files."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from clipbert.cli.model_choice import choose_model
from clipbert.cli.options import project
from clipbert.cli.use import Model
from clipbert.config.tasks import task_names
from clipbert.console import console
from clipbert.errors import ClipBertError, ModelFolderError

models = typer.Typer(rich_markup_mode="markdown")
PANEL = "Models"
CHECKPOINT_TASKS = ("retrieval", "open_qa", "image_qa", "multiple_choice", "pretrain", "backbone")


@models.command(
    epilog="Example: `clipbert convert OLD.pt --model-config base_model.json --task retrieval --out models/old`",
    rich_help_panel=PANEL,
)
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A checkpoint; with --to-original, a model folder.")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write; with --to-original, the checkpoint.")],
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="TASK", help=f"The checkpoint's task, one of: {', '.join(CHECKPOINT_TASKS)}."),
    ] = None,
    model_config: Annotated[
        Path | None, typer.Option("--model-config", help="The authors' model configuration, base_model.json.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="The answer vocabulary of open_qa and image_qa, a JSON file.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A folder or hub id; bert-base-uncased for the authors' models.")
    ] = None,
    to_original: Annotated[
        bool, typer.Option("--to-original", help="Convert a model folder to a checkpoint of the authors' code.")
    ] = False,
) -> None:
    """Convert a checkpoint of the authors' ClipBERT, or a detectron2 ResNet (`--task backbone`), to a model folder."""
    if not to_original and task not in CHECKPOINT_TASKS:
        raise ClipBertError(f"--task {task}: expected one of {', '.join(CHECKPOINT_TASKS)}, as the checkpoint's task.")
    if not to_original and task != "backbone" and model_config is None:
        raise ClipBertError("--model-config: missing; expected the authors' model configuration, base_model.json.")
    from clipbert.model.weights import convert as conversion
    from clipbert.tasks import task_class

    if to_original:
        conversion.to_original(source, out)
    elif task == "backbone":
        conversion.convert_backbone(source, out)
    else:
        assert model_config is not None
        assert task is not None
        conversion.convert(source, model_config, task, task_class(task).card, out, answers, tokenizer)


@models.command(
    epilog="Example: `clipbert export --model artifacts/models/retrieval --output exports/retrieval`",
    rich_help_panel=PANEL,
)
def export(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The folder to write.")],
    model: Model = None,
    form: Annotated[str, typer.Option("--format", help="onnx, or pt2 for a program of torch.export.")] = "onnx",
) -> None:
    """Export a model as ONNX or torch.export files, checked against the model."""
    with ExitStack() as scratch:
        chosen = choose_model(project(), model, task_names(), scratch)
        console.print(f"{chosen.name}:")
        from clipbert.export.write import TOLERANCE, export_model

        written = export_model(chosen.folder, output, form, lambda line: console.print(f"  {line}"))
    for part in written:
        console.print(
            f"{part.path}: {part.size / 1e6:.1f} MB, differs by at most {part.difference:.1g} from the model "
            f"(limit {TOLERANCE:g})"
        )
    if form == "onnx":
        console.print(f"Use it without torch: python {output}/example.py VIDEO TEXT")


@models.command(
    epilog="Example: `clipbert push me/clipbert-open-qa --model models:/clipbert-open_qa@champion --license mit`",
    rich_help_panel=PANEL,
)
def push(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the hub; made if missing.")],
    model: Model = None,
    license_name: Annotated[
        str, typer.Option("--license", help="Licence of the weights by the hub's identifiers, such as cc-by-4.0.")
    ] = "unknown",
    language: Annotated[str, typer.Option(help="Language of the texts.")] = "en",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write the folder here and upload nothing.")
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub, with its card, or write the folder that would be uploaded."""
    with ExitStack() as scratch:
        chosen = choose_model(project(), model, task_names(), scratch)
        from clipbert.model.weights.hub import push_folder, write_hub_folder

        if output is not None:
            write_hub_folder(chosen.folder, output, license_name, language)
            console.print(f"{output}: {chosen.name}, ready for {repository}")
        else:
            console.print(push_folder(chosen.folder, repository, license_name, language, private))


@models.command(epilog="Example: `clipbert checksum artifacts/models/retrieval --check`", rich_help_panel=PANEL)
def checksum(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, such as artifacts/models/TASK.")],
    check: Annotated[bool, typer.Option("--check", help="Only check; exit with code 2 if a file is damaged.")] = False,
) -> None:
    """Update the checksums of a model folder after an intended change.

    `checksums.sha256` lists every file except README.md; a model with a changed file is not loaded.
    """
    from clipbert.model.weights.checksums import damaged_files, sign_folder

    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder / 'config.json'}: not found: expected a model folder.")
    if check:
        if problems := damaged_files(folder):
            raise ModelFolderError("\n".join([*problems, f"To accept the folder as it is: clipbert checksum {folder}"]))
        console.print(f"{folder}: no listed file has changed.")
        return
    changes = sign_folder(folder)
    for line in changes:
        console.print(f"  {line}")
    console.print(f"{folder}: checksums written; {len(changes)} changed file(s) accepted.")
