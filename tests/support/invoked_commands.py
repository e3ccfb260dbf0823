"""Commands of `clipbert` in the process of the test."""

from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.errors import ClipBertError


def run(*arguments: str) -> str:
    """Return what a command prints."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def fail(*arguments: str) -> str:
    """Return the message of a command that a user called with something wrong."""
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, ClipBertError), done.output
    return str(done.exception)
