"""What does not suit the model that a run names."""

import pytest

from tests.runs.test_preflight import TRM, composed
from trm_agent.runs import preflight_model


def test_a_context_that_the_model_was_not_made_for_is_refused() -> None:
    config = composed("data.max_prompt_length=1000", "data.max_response_length=3097")
    with pytest.raises(ValueError, match=r"^data.max_response_length: got 3097, .* 4096 tokens in all.* lower one"):
        preflight_model.check_context(config, 4096)
    preflight_model.check_context(config, 4097)
    preflight_model.check_context(config, None)


def test_more_log_probs_than_the_vocabulary_has_are_refused() -> None:
    config = composed(f"{TRM}.estimator=topk", f"{TRM}.top_k=600")
    with pytest.raises(ValueError, match=r"top_k: got 600; allowed: at most the 563 tokens of the model's vocabulary"):
        preflight_model.check_top_k(config, 563)
