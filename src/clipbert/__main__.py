"""`python -m clipbert`."""

from clipbert.cli import main

main()
