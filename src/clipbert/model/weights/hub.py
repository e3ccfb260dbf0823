"""Model folders as repositories of the Hugging Face hub: what the hub's pages and its loaders look for."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download

from clipbert.errors import ClipBertError, ModelFolderError, first_line
from clipbert.files.atomic import atomic_directory, write_json
from clipbert.files.checksums import CHECKSUMS
from clipbert.model.processor_file import PROCESSOR_FILE
from clipbert.model.weights.card import CARD
from clipbert.model.weights.checksums import check_model, sign_files

CODE = "modeling_clipbert.py"
AUTO_CLASSES = {
    "ClipBertForMultipleChoice": "AutoModelForMultipleChoice",
    "ClipBertForOpenQA": "AutoModelForVisualQuestionAnswering",
    "ClipBertForPreTraining": "AutoModelForPreTraining",
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
WEIGHTS = ("*.bin", "*.h5", "*.msgpack", "*.onnx", "*.pt", "*.pth", "*.safetensors")
DOWNLOAD_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")
# What `AutoModel.from_pretrained(..., trust_remote_code=True)` runs where `import clipbert` did not come first.
CODE_TEXT = '''"""The classes of this model are in the package clipbert: pip install clipbert."""

from clipbert.model import ClipBertConfig, ClipBertProcessor, {architecture}

__all__ = ["ClipBertConfig", "ClipBertProcessor", "{architecture}"]
'''


def write_hub_folder(folder: Path, out: Path, license_name: str, language: str) -> None:
    """Write a copy of a model folder that is ready for the hub.

    `config.json` and the processor get an `auto_map`, with a file that takes the classes from this package; with
    `import clipbert` first, transformers does not need it. The card gets the licence and the language.

    Args:
        folder: of a trained model.
        out: replaced.
        license_name, language: identifiers of the hub, such as "mit" and "en".

    Raises:
        ClipBertError: the folder holds no model, a damaged one, or one without a card.
    """
    check_model(folder)
    config_path, card_path = folder / "config.json", folder / CARD
    for path in (config_path, folder / PROCESSOR_FILE, card_path):
        if not path.is_file():
            raise ClipBertError(f"{path}: not found: expected a complete model folder, as `clipbert train` writes.")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    (architecture,) = config["architectures"]
    classes = dict.fromkeys(("AutoModel", AUTO_CLASSES.get(architecture, "AutoModel")), architecture)
    with atomic_directory(out) as fresh:
        for path in folder.iterdir():
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, fresh / path.name)
        names = {"AutoConfig": "ClipBertConfig", **classes}
        config["auto_map"] = {auto: f"{Path(CODE).stem}.{name}" for auto, name in names.items()}
        write_json(fresh / "config.json", config)
        processor = json.loads((folder / PROCESSOR_FILE).read_text(encoding="utf-8"))
        processor["auto_map"] = {"AutoProcessor": f"{Path(CODE).stem}.ClipBertProcessor"}
        write_json(fresh / PROCESSOR_FILE, processor)
        (fresh / CODE).write_text(CODE_TEXT.format(architecture=architecture), encoding="utf-8")
        card = ModelCard(card_path.read_text(encoding="utf-8"))
        assert isinstance(card.data, ModelCardData)
        card.data.license, card.data.language = license_name, language
        (fresh / CARD).write_text(str(card), encoding="utf-8")
        if (folder / CHECKSUMS).is_file():
            sign_files(fresh, [fresh / name for name in ("config.json", PROCESSOR_FILE, CODE)])


def push_folder(folder: Path, repo_id: str, license_name: str, language: str, private: bool) -> str:
    """Upload a model folder to the hub in one commit, and return the address of the commit.

    The repository is made if it does not exist. The token is that of `hf auth login` or HF_TOKEN.

    Raises:
        ClipBertError: a wrong id, no usable model, or the hub refused it.
    """
    if not HUB_ID.fullmatch(repo_id):
        raise ClipBertError(f"{repo_id}: expected the id of a repository of the hub, OWNER/NAME.")
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "model"
        write_hub_folder(folder, ready, license_name, language)
        try:
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=repository, folder_path=ready, commit_message="Upload a ClipBERT model")
        except Exception as error:  # the hub client and its HTTP library raise many types
            raise ClipBertError(
                f"{repo_id}: the hub did not take the model ({first_line(error)}). Log in with `hf auth login` or set "
                "HF_TOKEN to a token that may write, and check the id and the network."
            ) from error
    return str(commit.commit_url)


def download_without_weights(repo_id: str, **options: Any) -> Path:
    """Download the files of a repository of the hub except its weights, and return their folder.

    Args:
        options: `cache_dir`, `local_files_only`, `revision` and `token` are used, others ignored.

    Raises:
        ModelFolderError: the hub has no such repository, or does not answer.
    """
    chosen = {name: options[name] for name in DOWNLOAD_OPTIONS if options.get(name) is not None}
    try:
        return Path(snapshot_download(repo_id, ignore_patterns=list(WEIGHTS), **chosen))
    except Exception as error:  # the hub client and its HTTP library raise many types
        raise ModelFolderError(
            f"{repo_id}: not a folder, and the hub did not provide it ({first_line(error)}). Check the id and the "
            "network (HF_HUB_OFFLINE), or name a folder written by save_pretrained."
        ) from error
