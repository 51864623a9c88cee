"""From a checked configuration to verl's `run_ppo`."""

from importlib import resources
from typing import Any

from omegaconf import DictConfig, open_dict

from trm_agent import verl_plugin
from trm_agent.preflight import check_budget, check_policy_loss
from trm_agent.verl_plugin.runner import mark

AGENT_LOOPS = resources.files("trm_agent.verl_plugin") / "agent_loop.yaml"


def check(config: DictConfig) -> None:
    """The checks that need verl and the model's tokenizer.

    Raises:
        ValueError: an unknown policy loss, or a horizon that does not fit the token budget.
        RuntimeError: verl did not load our plugin.
    """
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    import trm_agent.verl_plugin.policy_loss  # noqa: F401  (registers `trm`)

    if not verl_plugin.LOADED:
        raise RuntimeError("verl did not load the plugin trm_agent: reinstall the package (pip install -e .)")
    with open_dict(config):
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(AGENT_LOOPS)
    check_policy_loss(config, POLICY_LOSS_REGISTRY)
    check_budget(config, _measure(config))
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def run(config: DictConfig) -> None:
    """Start Ray and train; returns after the last step."""
    from verl.trainer.main_ppo import run_ppo

    from trm_agent.verl_plugin.runner import RunTaskRunner

    if config.hardware.fork_server:
        from trm_agent.fork_server import handle

        handle.use_for_ray()
    mark(config.run.dir, "driver")
    run_ppo(config, task_runner_class=RunTaskRunner)


def _measure(config: DictConfig) -> Any:
    """How many tokens the solver's episode takes with the model's tokenizer."""
    from transformers import AutoTokenizer

    from trm_agent.episode import ChatTokens
    from trm_agent.verl_plugin.agent_loop import make_env
    from trm_envs import ToolEnv

    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    chat = ChatTokens(tokenizer)

    def measure(options: dict[str, Any]) -> tuple[int, int]:
        env = make_env(config.env, config.env.id).unwrapped
        if not isinstance(env, ToolEnv):  # no scripted solver to ask
            return 0, 0
        observation, _ = env.reset(seed=0, options=options)
        prompt = len(chat.prompt(env.system_prompt, observation, env.tool_schemas))
        response, done = 0, False
        while not done:
            action = env.solution()
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            response += len(tokenizer.encode(action)) + 1
            if not done:
                response += len(chat.observation(info["role"], observation, model_turn_finished=True))
        env.close()
        return prompt, response

    return measure
