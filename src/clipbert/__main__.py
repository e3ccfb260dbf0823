"""The `clipbert` command, and `python -m clipbert`: ready for Ctrl-C before the command line is imported."""

from typing import NoReturn

from clipbert.interruption import exit_on_interrupt


def main() -> NoReturn:
    """Run the command line; Ctrl-C while it is still being imported ends it with one line and exit code 130."""
    exit_on_interrupt()
    from clipbert.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
