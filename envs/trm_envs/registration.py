"""The ids that `gymnasium.make` knows after `import trm_envs`."""

import gymnasium

ENTRY_POINTS = {
    "trm/ChainMath-v0": "trm_envs.tasks.chain_math:ChainMath",
}


def register_envs() -> None:
    """Register every environment of this package with Gymnasium; a second call changes nothing."""
    for env_id, entry_point in ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


def registered_ids() -> list[str]:
    """Return the ids of this package's environments, sorted."""
    return sorted(ENTRY_POINTS)
