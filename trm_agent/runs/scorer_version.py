"""Compare versions of the scorer, since the results of different ones cannot be combined."""

from trm_envs.scoring import SCORER_VERSION

FIELD = "scorer_version"


def other_scorer(stored: object) -> str | None:
    """Describe the difference between the scorer of stored results and the present one; None if there is none.

    Args:
        stored: the version in a config.yaml; None for a folder from before versions were stored.
    """
    if stored == SCORER_VERSION:
        return None
    theirs = "a scorer whose version was not stored" if stored is None else f"scorer version {stored}"
    return f"{theirs}, and this is scorer version {SCORER_VERSION}"
