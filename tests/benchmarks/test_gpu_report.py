"""The table of the GPU kit, and its section of the documentation."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.gpu.parts import PARTS, Measure
from benchmarks.gpu.report import BEGIN, END, main, number, print_table, rows, section, take_over

REPOSITORY = Path(__file__).resolve().parents[2]


def results(**changes: Any) -> dict[str, Any]:
    def measure(what: str, value: float, unit: str = "", target: float | None = None, least: bool = True) -> Any:
        found = Measure(what, value, unit, target, least)
        return {**vars(found), "met": found.met}

    parts = [
        {
            "name": "train_step",
            "status": "ok",
            "detail": "",
            "measures": [measure("bf16: speed over the first", 3.21, "x", 2.0), measure("bf16: MFU", 0.31, "", 0.4)],
        },
        {"name": "loader", "status": "ok", "detail": "", "measures": [measure("waiting", 0.02, "", 0.1, least=False)]},
        {"name": "compile", "status": "timeout", "detail": "after 150 of 150 s: step 1", "measures": []},
    ]
    machine = {"device": "NVIDIA H100 80GB HBM3", "type": "cuda", "memory_gb": 85.2, "cores": 16}
    machine["versions"] = {"torch": "2.11.0+cu130", "triton": None}
    fields = {"date": "2026-11-27", "dry_run": False, "data": "videos of a project", "seconds": 312.4}
    return {**fields, "machine": machine, "parts": parts, **changes}


def test_targets_are_met_from_their_side() -> None:
    assert [row[1:] for row in rows(results())] == [
        ("bf16: speed over the first", "3.21 x", "at least 2", "yes"),
        ("bf16: MFU", "0.31", "at least 0.4", "no"),
        ("waiting", "0.02", "at most 0.1", "yes"),
        ("after 150 of 150 s: step 1", "timeout", "", ""),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (0.0312, "0.0312"), (12345.6, "12,346"), (98.76, "98.8"), (0.0, "0")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_names_machine_and_versions() -> None:
    file = io.StringIO()
    print_table(results(), Console(file=file, width=140))
    text = file.getvalue()
    assert text.startswith("2026-11-27, NVIDIA H100 80GB HBM3 (85.2 GB), 16 cores, torch 2.11.0+cu130; data: videos of")
    assert "triton" not in text
    assert all(word in text for word in ("train_step", "3.21 x", "timeout"))


def test_the_section_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    take_over(results(), page)
    first = page.read_text()
    assert first == f"# Title\n\n{BEGIN}\n\n{section(results())}\n\n{END}\n\nafter\n"
    assert "| train_step | bf16: speed over the first | 3.21 x | at least 2 | yes |\n|  | bf16: MFU |" in first
    take_over(results(), page)
    assert page.read_text() == first


def test_a_dry_run_is_no_measurement(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text := f"{BEGIN}\n{END}\n")
    with pytest.raises(SystemExit, match="a check without a GPU"):
        take_over(results(dry_run=True), page)
    assert page.read_text() == text


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_page_without_the_markers_stays(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match="expected one <!-- gpu kit: begin -->"):
        take_over(results(), page)
    assert page.read_text() == text


def test_the_page_of_the_project_has_the_markers() -> None:
    text = (REPOSITORY / "docs" / "concepts" / "performance.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_a_wrong_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match=r"gpu\.json: cannot be read .* as `make gpu` writes it"):
        main()


def test_parts_have_names_of_their_own_and_fit_the_time_together() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert all(0 < part.limit_s <= 150 for part in PARTS)
