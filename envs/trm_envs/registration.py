"""The ids that `gymnasium.make` knows after `import trm_envs`."""

import gymnasium

ENTRY_POINTS = {
    "trm/ChainMath-v0": "trm_envs.tasks.chain_math:ChainMath",
    "trm/ComposedMath-v0": "trm_envs.tasks.composed_math:ComposedMath",
    "trm/LongExecution-v0": "trm_envs.tasks.long_execution:LongExecution",
    "trm/PythonMath-v0": "trm_envs.tasks.python_math:PythonMath",
    "trm/CodeRepair-v0": "trm_envs.tasks.code_repair:CodeRepair",
    "trm/CodeTests-v0": "trm_envs.tasks.code_tests:CodeTests",
    "trm/ReasoningGym-v0": "trm_envs.tasks.reasoning_gym:ReasoningGym",
}


# no task of its own: it wraps the game that its option env_id names
WRAPPERS = {"trm/Gym-v0": "trm_envs.gym_tool:GymTool"}


def register_envs() -> None:
    """Register every environment of this package with Gymnasium; a second call changes nothing."""
    for env_id, entry_point in {**ENTRY_POINTS, **WRAPPERS}.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


def registered_ids() -> list[str]:
    """Return the ids of this package's environments, sorted."""
    return sorted(ENTRY_POINTS)
