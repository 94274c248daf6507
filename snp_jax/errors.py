"""The one exception a user's mistake raises, and how a command line reports it.

Everything here is about telling a person what went wrong in one sentence. Programming errors stay ordinary exceptions with
their traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_STOPPED = 75
"""A run was asked to stop (SIGTERM, Ctrl-C), has saved, and goes on when it is started again: EX_TEMPFAIL of sysexits.h, "the
user is invited to retry". Not 143: a process that was killed before it could save ends with that as well."""


class UserError(Exception):
    """Bad input. The message is one sentence: the file, line or key, what was found, and what to do."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: with its return value, or with status 2 and `error: ...` on stderr for a `UserError`."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_USER_ERROR
    sys.exit(code or 0)
