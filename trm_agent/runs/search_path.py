"""The search path of modules."""

import os
import sys


def look_here_last() -> None:
    """Make a user's module importable from the current folder, after everything that is installed.

    Python itself puts the folder first for `python -m`, where a file of the user's with the name of a package would
    take its place. A folder that PYTHONPATH names stays where it is.
    """
    here = os.path.realpath(os.getcwd())
    wanted = [os.path.realpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if here in wanted:
        return
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    sys.path.append(here)
