"""The models that a run makes or fetches by itself."""

import pytest

from tests.runs.test_preflight import composed
from trm_agent.models import nano as nano_model
from trm_agent.runs import own_models


@pytest.mark.parametrize("response", [65_536, 131_072])
@pytest.mark.parametrize(("path", "context"), [("nano", 32_768), ("smollm2", 8192)])
def test_our_own_models_are_neither_made_nor_fetched_for_a_longer_context(
    monkeypatch: pytest.MonkeyPatch, response: int, path: str, context: int
) -> None:
    monkeypatch.setattr(own_models, "ensure_smollm2", lambda **_: pytest.fail("fetched"))
    monkeypatch.setattr(nano_model, "ensure_nano_model", lambda _: pytest.fail("made"))
    config = composed(f"data.max_response_length={response}", "actor_rollout_ref.rollout.max_model_len=140000")
    config.actor_rollout_ref.model.path = path
    with pytest.raises(ValueError, match=rf"^data.max_response_length: got {response}, .* {context} tokens in all"):
        own_models.made_model(config)
