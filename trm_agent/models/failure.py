"""A warm start that does not reach its target."""

from collections.abc import Sequence


class WarmStartFailed(RuntimeError):
    """A nano model that did not learn its environment.

    Args:
        facts: what was reached, and what was wanted.
        shown: lines about what the model writes.
        remedy: what to do, one line.
    """

    def __init__(self, facts: str, remedy: str, shown: Sequence[str] = ()) -> None:
        super().__init__("\n".join([facts, *shown, remedy]))
        self.facts, self.remedy = facts, remedy
