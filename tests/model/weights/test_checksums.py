"""Every file of a model folder is checked before it is used, whoever reads it."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from byte_flips import unnoticed_flips, unnoticed_truncations
from transformers import AutoConfig, AutoModel, AutoProcessor
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.errors import ClipBertError, ModelFolderError
from clipbert.files.checksums import CHECKSUMS, read_checksums
from clipbert.model import ClipBertConfig, ClipBertForRetrieval, ClipBertProcessor, load
from clipbert.model.weights.checksums import check_model, damaged_files, sign_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = ClipBertProcessor.train_tokenizer(["a red circle moves", "a blue square"] * 2, 200)
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, image_size=32)
    ClipBertForRetrieval(config).save_pretrained(path)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(path)
    return path


@pytest.mark.slow
def test_every_file_is_listed_and_sha256sum_agrees(folder: Path) -> None:
    assert set(read_checksums(folder)) == {path.name for path in folder.iterdir()} - {CHECKSUMS}
    done = subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_bit_in_any_file_is_noticed(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        assert unnoticed_flips(path, lambda: check_model(folder)) == [], path.name
        assert unnoticed_truncations(path, lambda: check_model(folder)) == [], path.name


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", '"num_attention_heads": 4', '"num_attention_heads": 2'),
        ("config.json", "127.5", "107.5"),
        ("tokenizer.json", '"continuing_subword_prefix": "##"', '"continuing_subword_prefix": "#"'),
        ("processor_config.json", '"clips": ', '"clips": 1'),
    ],
)
def test_an_edited_setting_is_refused_by_every_reader(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    whole = path.read_text()
    assert old in whole
    path.write_text(whole.replace(old, new, 1))
    try:
        readers = [load, AutoConfig.from_pretrained, AutoModel.from_pretrained, ClipBertForRetrieval.from_pretrained]
        readers += [ClipBertProcessor.from_pretrained, AutoProcessor.from_pretrained, ClipBertConfig.from_pretrained]
        for read in readers:
            with pytest.raises(ModelFolderError, match=rf"{name}: damaged or edited .* clipbert checksum {folder}"):
                read(folder)
    finally:
        path.write_text(whole)
    load(folder)


def test_files_that_people_and_tools_add_are_no_damage(folder: Path) -> None:
    added = [folder / name for name in ("README.md", ".gitattributes", "notes.txt", "training_args.bin")]
    for path in added:
        path.write_text("x")
    load(folder)
    assert damaged_files(folder) == []
    for path in added:
        path.unlink()


def test_a_saved_file_is_signed_again_and_no_other(folder: Path, tmp_path: Path) -> None:
    processor = ClipBertProcessor.from_pretrained(folder)
    copy = tmp_path / "copy"
    load(folder).save_pretrained(copy)
    assert set(read_checksums(copy)) == {"config.json", "model.safetensors"}
    processor.save_pretrained(copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace("true", "false", 1))
    load_config = ClipBertConfig.tiny(vocab_size=50, hidden_size=16, num_hidden_layers=1, image_size=32)
    ClipBertForRetrieval(load_config).save_pretrained(copy)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json: damaged or edited"):
        load(copy)


def test_the_verb_accepts_a_change_made_on_purpose(folder: Path, tmp_path: Path) -> None:
    load(folder).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"lse"', '"mean"'))
    run = CliRunner()
    with pytest.raises(ClipBertError, match=r"config\.json: damaged or edited"):
        run.invoke(app, ["checksum", str(tmp_path), "--check"], catch_exceptions=False)
    said = run.invoke(app, ["checksum", str(tmp_path)], catch_exceptions=False).output
    assert "config.json: changed" in said
    assert load(tmp_path).config.score_aggregation == "mean"
    assert run.invoke(app, ["checksum", str(tmp_path), "--check"], catch_exceptions=False).exit_code == 0
    assert sign_folder(tmp_path) == []


def test_weights_follow_the_umask(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    for mask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            model.save_pretrained(tmp_path / str(mask))
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / str(mask)).iterdir()}
        assert modes == dict.fromkeys(modes, mode)
