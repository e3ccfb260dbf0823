"""The one exception that means: the user can mend this."""


class ClipBertError(Exception):
    """A user's error: the message names the file, field or value, what was expected and what to do.

    The command line prints it without a traceback and exits with 2. Anything else that escapes is ours: exit 1.
    """
