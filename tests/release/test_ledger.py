import sqlite3
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.release.ledger import LEDGER, Ledger

STORE = "sqlite:///mlflow/mlflow.db"


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A project folder whose ledger has an intent, its end and a decision about another task."""
    with Ledger(tmp_path) as ledger:
        ledger.append("intent", "a", "retrieval", STORE, {"name": "clipbert-retrieval", "note": "Füße"})
        ledger.append("completed", "a", "retrieval", STORE, {"name": "clipbert-retrieval"})
        ledger.append("decided", "b", "open_qa", STORE, {"name": "clipbert-open_qa"})
    return tmp_path


def test_rows_come_back_in_order_and_by_task(filled: Path) -> None:
    with Ledger(filled) as ledger:
        assert [(entry.seq, entry.kind, entry.id) for entry in ledger.entries()] == [
            (1, "intent", "a"),
            (2, "completed", "a"),
            (3, "decided", "b"),
        ]
        (other,) = ledger.entries("open_qa")
        assert (other.task, other.store, other.facts) == ("open_qa", STORE, {"name": "clipbert-open_qa"})
        assert ledger.entries("retrieval")[0].facts["note"] == "Füße"


def test_rows_keep_their_order_when_the_clock_is_set_back(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipbert.release.ledger.utc_now", lambda: "2001-01-01T00:00:00+00:00")
    with Ledger(filled) as ledger:
        ledger.append("decided", "c", "retrieval", STORE, {})
        rows = ledger.entries()
    assert [row.id for row in rows] == ["a", "a", "b", "c"]
    assert rows[-1].at < rows[0].at


def test_reading_creates_no_file(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.entries() == []
    assert not (tmp_path / "mlflow").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET facts = '{}' WHERE seq = 1",
        "DELETE FROM entries",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries WHERE seq = 1",
    ],
)
def test_rows_cannot_be_changed_removed_or_replaced(filled: Path, statement: str) -> None:
    connection = sqlite3.connect(filled / LEDGER)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger is append-only"), connection:
        connection.execute(statement)
    connection.close()
    with Ledger(filled) as ledger:
        assert len(ledger.entries()) == 3


def test_a_change_ends_once(filled: Path) -> None:
    with Ledger(filled) as ledger, pytest.raises(ClipBertError, match="UNIQUE constraint failed"):
        ledger.append("undone", "a", "retrieval", STORE, {})


@pytest.mark.parametrize("damage", ["text", "value", "cut", "row"])
def test_a_damaged_ledger_is_named_with_its_remedy(filled: Path, damage: str) -> None:
    path = filled / LEDGER
    content = path.read_bytes()
    if damage == "text":
        path.write_text("no database at all, and longer than a header\n" * 50)
    elif damage == "value":
        path.write_bytes(content.replace("Füße".encode(), b"Fuss!!"))
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TRIGGER no_delete")
            connection.execute("DELETE FROM entries WHERE seq = 2")
        connection.close()
    with Ledger(filled) as ledger, pytest.raises(ClipBertError) as caught:
        ledger.entries()
    message = str(caught.value)
    assert f"{path}: the promotion ledger is damaged" in message
    assert "Restore it from a backup" in message


def test_a_ledger_of_a_newer_program_is_left_alone(filled: Path) -> None:
    with sqlite3.connect(filled / LEDGER) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with Ledger(filled) as ledger, pytest.raises(ClipBertError, match="has format 7, expected 1"):
        ledger.entries()


def test_appends_are_flushed_to_the_disk(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("decided", "a", "retrieval", STORE, {})
        connection = ledger._connection
        assert connection is not None
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
