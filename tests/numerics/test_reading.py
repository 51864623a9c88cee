"""A second engine reads what the first one played: which log-prob belongs to which token, and what it cannot."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from trm_agent.evaluate.engines.vllm_turns import read
from trm_agent.numerics.forcing import Played
from trm_agent.numerics.reading import PIECE, check_readable, read_all, reading_settings
from trm_agent.numerics.source import Source, _of_model


class Reader:
    """Answers like vLLM: a log-prob of each token by its place, for the first one none."""

    def __init__(self) -> None:
        self.asked = []

    async def ask(self, ids, asked):
        self.asked.append(asked)
        rows = [{token: SimpleNamespace(logprob=-0.25 * place)} for place, token in enumerate(ids)]
        return SimpleNamespace(prompt_logprobs=[None, *rows[1:]])


async def test_each_token_has_its_own_log_prob():
    engine = Reader()
    assert await read(engine, [7, 8, 7, 9]) == [-0.25, -0.5, -0.75]
    # no more than the token's own, and no seed, which vLLM could not rewind on a CPU
    assert engine.asked == [{"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}]


async def test_the_log_probs_are_those_of_the_sampled_tokens():
    episodes = [
        Played([5, 6, 7, 8, 9], [False, True, True, False, True], [0.0] * 5, 2),
        Played([5, 6, 7], [False, False, True], [0.0] * 3, 1),
    ]
    grown = []
    found = await read_all(Reader(), episodes, grown.append)
    assert [part.tolist() for part in found] == [[-0.25, -0.5, -1.0], [-0.5]]
    assert [part.dtype for part in found] == [np.float64] * 2
    assert grown == [5, 3]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source without a model behind it."""
    from trm_agent.evaluate.environments import named

    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return Source("mine", folder, _of_model(folder, "cpu"), named("chain_math"), None, None)


def test_it_reads_in_pieces_and_has_room_for_the_token_behind_the_last_one(source):
    settings = reading_settings(source, "bfloat16", 1500)
    assert (settings["dtype"], settings["max_model_len"], settings["max_num_seqs"]) == ("bfloat16", 1501, 1)
    assert (settings["enable_chunked_prefill"], settings["max_num_batched_tokens"]) == (True, PIECE)
    # log-probs of cached tokens would be missing
    assert settings["enable_prefix_caching"] is False
    # but for that it is the run's engine
    assert settings["block_size"] == source.config.actor_rollout_ref.rollout.engine_kwargs.vllm.block_size


def test_a_run_that_samples_at_another_temperature_is_refused(source):
    cold = Source(
        *("mine", source.folder),
        OmegaConf.merge(source.config, {"actor_rollout_ref": {"rollout": {"temperature": 0.8}}}),
        *(source.environment, None, None),
    )
    with pytest.raises(ValueError, match=r"--second-engine: got 'float32', and the run samples at 0\.8: .*trm export"):
        check_readable(cold, ["float32"])
    check_readable(cold, [])
    check_readable(source, ["float32"])
