"""scripts/check_prose.py: phrases that CONTRIBUTING.md asks to avoid are found where they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_prose import findings, main, tracked_files

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The training goes on from\nthe last checkpoint.", [(1, "goes on")]),
        ("# The training goes\n# on from the last checkpoint.", [(1, "goes # on")]),
        ("First line.\nA report that is told.", [(2, "is told")]),
        ("A loss that is no number.", [(1, "is no number")]),
        ("There is no space left; it is no longer needed.", []),
        ("One file per task; an answer of a question.", []),
        ("Writes one file a task.", [(1, "one file a task")]),
        ("Run it anew. Mend it.", [(1, "Mend"), (1, "anew")]),
        ("Besides, `beside` is the name of a function.", []),
        ("mode=beside", [(1, "beside")]),
    ],
)
def test_phrases_are_found_with_their_line(text: str, found: list[tuple[int, str]]) -> None:
    assert [(line, words) for line, words, _ in sorted(findings(text))] == found


def test_a_finding_names_file_line_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nThe file lies beside the other.\n")
    assert main([str(page)]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{page}:3: 'beside': write next to; compared with\n"
    assert "1 phrases to rewrite" in shown.err
    page.write_text("The file is next to the other.\n")
    assert main([str(page)]) == 0


@pytest.mark.slow
def test_docs_sources_and_messages_are_read() -> None:
    names = {path.as_posix() for path in tracked_files()}
    assert {"README.md", "docs/index.md", "src/clipbert/errors.py", "params.yaml", "prefect.yaml"} <= names
    assert not any(name.endswith((".lock", ".png")) for name in names)


@pytest.mark.slow
def test_codespell_knows_british_spellings(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("The colour of the behaviour.\n")
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(REPOSITORY / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "colour ==> color" in done.stdout
    assert "behaviour ==> behavior" in done.stdout
