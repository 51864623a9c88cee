"""The version of the policy that sampled each token, from the rollout server to verl's training batch.

A version counts synchronisations of the engine's weights, which have one or more updates in them: 0 is the policy that
a run begins with, and step s trains version s - 1. Only runs whose turns go on after a synchronisation record it;
elsewhere all tokens of a step are of one version.
"""

from typing import Any

import numpy as np

from trm_agent.episode import Episode

# sampling parameter of the rollout server: the turn may be cut for an update, and its caller goes on with it
PARTIAL = "trm_partial"
# key of the server's answer in verl's extra_fields: the version of all its tokens
VERSION = "trm_version"
# key in `Generation.extra`: int32, one version for each token of a turn
VERSIONS = "trm_versions"
# field of the training batch: int32, one entry for each response token
ROLLOUT_VERSIONS = "rollout_versions"
NOT_SAMPLED = -1
"""Entry of a token that the model did not sample."""


def version_field(episode: Episode) -> dict[str, Any]:
    """Lay the turns' versions out over the response.

    Args:
        episode: an episode whose `extras` hold the versions of each turn, or of none.

    Returns:
        `ROLLOUT_VERSIONS`, int32, shape (response tokens,); empty where no turn has versions.

    Raises:
        ValueError: a turn has not one version for each token, or they go back.
    """
    if not any(VERSIONS in extra for extra in episode.extras):
        return {}
    versions = np.full(len(episode.response_ids), NOT_SAMPLED, dtype=np.int32)
    newest = NOT_SAMPLED
    for turn, extra in zip(episode.turns, episode.extras, strict=True):
        start, stop = turn.token_span
        found = extra.get(VERSIONS, ())
        if len(found) != stop - start:
            raise ValueError(f"the rollout server recorded {len(found)} versions for {stop - start} tokens")
        if np.any(np.diff(found, prepend=newest) < 0):
            raise ValueError(f"the versions of a turn's tokens go back, after version {newest}: {list(found)[:20]}")
        versions[start:stop], newest = found, int(found[-1])
    return {ROLLOUT_VERSIONS: versions}
