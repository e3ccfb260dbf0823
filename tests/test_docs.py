"""The README and the docs name only what exists: files, make targets, verbs, parameters."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from clipbert.cli.main import app
from clipbert.config.schema import Params

PROJECT = Path(__file__).parents[1]
REFERENCE = PROJECT / "docs" / "reference"
GENERATED = {REFERENCE / name for name in ("changelog.md", "cli.md", "parameters.md")} | {
    PROJECT / "docs" / "notebooks" / "explore.md"
}
ROOT_PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")]
PAGES = [*ROOT_PAGES, *sorted((PROJECT / "docs").rglob("*.md"))]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [link for link in links if "://" not in link]
    targets = {link: (page.parent / link).resolve() for link in local}
    assert [link for link, path in targets.items() if not path.exists() and path not in GENERATED] == []


def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), flags=re.M)) <= targets


def test_verbs_and_parameters_exist(page: Path) -> None:
    text = page.read_text()
    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"(?:`|\$ |^    |^)(?:\.venv/bin/)?clipbert ([a-z][a-z-]+)", text, flags=re.M))
    assert named <= verbs
    known = Params().flat().keys()
    sections = "|".join({name.split(".")[0] for name in known if "." in name})
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+(?:\.[a-z_]+)*)(?:: [^`]*)?`", text))
    unknown = {name for name in named if not any(f"{path}.".startswith(f"{name}.") for path in known)}
    assert {name for name in unknown if not name.endswith((".py", ".csv", ".json", ".jsonl", ".pt", ".lock"))} == set()
    given = set(re.findall(r"(?:-S|--set) '?([a-z_.]+)=", text))
    assert given <= known | {"train.lrr"}


def test_each_test_that_a_page_names_exists(page: Path) -> None:
    for name, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        path = PROJECT / name
        assert path.is_file(), name
        assert not test or re.search(rf"^def {test}\(", path.read_text(), flags=re.M), test


def test_each_page_that_a_text_names_exists() -> None:
    texts = [*ROOT_PAGES, PROJECT / "CHANGELOG.md", PROJECT / "prefect.yaml", PROJECT / "pyproject.toml"]
    texts += [
        path
        for folder in ("src", "flows", "mlflow")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in {".py", ".md"}
    ]
    named = {
        name for path in texts for name in re.findall(r"docs/[\w/-]+\.(?:md|ipynb)", path.read_text(encoding="utf-8"))
    }
    assert named
    assert [name for name in sorted(named) if not (PROJECT / name).is_file()] == []


def test_each_source_file_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|yaml|toml))`", page.read_text()))
    places = [PROJECT, PROJECT / "src", PROJECT / "src" / "clipbert", *(PROJECT / "src" / "clipbert").glob("*/")]
    places += [PROJECT / "src/clipbert/data/importers/datasets"]
    named = {name for name in named if not name.endswith("NAME.py")}
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_benchmarks_and_modules_that_a_page_runs_exist(page: Path) -> None:
    for module in re.findall(r"python -m ((?:benchmarks|flows)[\w.]*)", page.read_text()):
        assert (PROJECT / module.replace(".", "/")).with_suffix(".py").is_file(), module
    for path in re.findall(r"python (?:\./)?((?:benchmarks|scripts)/[\w/]+\.py)", page.read_text()):
        assert (PROJECT / path).is_file(), path


def test_no_placeholder_is_left(page: Path) -> None:
    assert "@@" not in page.read_text()


def test_the_graph_names_files_that_exist() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    code = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("src/")}
    assert code
    assert [path for path in sorted(code) if not (PROJECT / path).exists()] == []


def test_ci_runs_what_the_readme_says() -> None:
    script = (PROJECT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "make test-all" in script
    assert ".ci/run" in (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    assert "pytest" not in (PROJECT / ".pre-commit-config.yaml").read_text()  # a commit takes seconds


def test_the_lock_pins_everything_and_names_no_address() -> None:
    lines = [line for line in (PROJECT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 150
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!]+", line)] == []


def test_the_readme_is_an_overview() -> None:
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"!\[", text)) == 3  # a report, the dashboard, and the page of `clipbert app`
    assert len(re.findall(r"^\|---", text, flags=re.M)) <= 2  # results, and where next


def test_the_readme_shows_its_commands_and_leads_to_every_part_of_the_docs() -> None:
    text = (PROJECT / "README.md").read_text()
    assert "    make run" in text
    assert "    make test" in text
    assert "    make test-all" in text
    assert {f"docs/{folder}/" for folder in ("tutorial", "how-to", "concepts")} <= set(
        re.findall(r"\]\((docs/[a-z-]+/)", text)
    )
