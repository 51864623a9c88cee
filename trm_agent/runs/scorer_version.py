"""The version of the scorer that gave the rewards: results of different ones do not go together."""

from trm_envs.scoring import SCORER_VERSION

FIELD = "scorer_version"


def other_scorer(stored: object) -> str | None:
    """Say how the scorer of stored results differs from the present one; None if it does not.

    Args:
        stored: the version as a config.yaml has it; None for a folder from before versions were stored.
    """
    if stored == SCORER_VERSION:
        return None
    theirs = "a scorer whose version was not stored" if stored is None else f"scorer version {stored}"
    return f"{theirs}, and this is scorer version {SCORER_VERSION}"
