"""Entry point of the `clipbert` command: handles Ctrl-C before the command line is imported."""

from typing import NoReturn

from clipbert.interruption import exit_on_interrupt


def main() -> NoReturn:
    """Run the command line; Ctrl-C during its import exits with one line and code 130."""
    exit_on_interrupt()
    from clipbert.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
