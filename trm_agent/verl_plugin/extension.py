"""What verl imports through `actor_rollout_ref.model.external_lib` in every process that builds the model's config."""

from trm_agent.verl_plugin import engine, policy_loss  # noqa: F401  (policy_loss registers `trm` on import)

engine.register()
