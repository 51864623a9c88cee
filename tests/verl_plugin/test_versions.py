"""Versions on the actor's side: lags of a micro-batch, the update's metrics, and the dump."""

from functools import partial

import pyarrow.parquet
import pytest
import torch

pytest.importorskip("verl")

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import ppo_loss

from tests.verl_plugin.loss_support import actor_config
from tests.verl_plugin.test_distributions import micro_batch
from tests.verl_plugin.test_engine import ADVANTAGES, batch, engine
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.divergences import version_lags
from trm_agent.verl_plugin.actor.update import STEP_KEY, final_metrics
from trm_agent.verl_plugin.rollout.versions import ROLLOUT_VERSIONS

# as long as the responses of `micro_batch`: five and three tokens, of which three and two were sampled
VERSIONS = [torch.tensor([3, 3, -1, -1, 4]), torch.tensor([6, -1, 6])]


def versions(*rows: torch.Tensor) -> list[torch.Tensor]:
    return [row.int() for row in rows]


@pytest.mark.parametrize("remove_padding", [True, False])
def test_a_lag_counts_the_updates_since_a_token_was_sampled(remove_padding):
    # step 7 begins with version 6
    found = version_lags(micro_batch(1.0, remove_padding, **{ROLLOUT_VERSIONS: versions(*VERSIONS)}), 7)
    assert found.tolist() == [[3, 3, -1, -1, 2], [0, -1, 0, -1, -1]]
    assert version_lags(micro_batch(1.0, remove_padding), 7) is None


def test_a_sequence_that_fills_up_a_batch_has_no_lag():
    # it carries the versions of the sequence that it was copied from
    rows = {
        "responses": [torch.ones(1), torch.ones(3)],
        "response_mask": [torch.tensor([0]), torch.tensor([1, 0, 1])],
        ROLLOUT_VERSIONS: versions(VERSIONS[0], VERSIONS[1]),
    }
    data = TensorDict(
        {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()}, [2]
    )
    assert version_lags(data, 7).tolist() == [[-1, -1, -1], [0, -1, 0]]


@pytest.mark.usefixtures("one_rank")
def test_an_update_tells_what_became_of_each_version_and_dumps_them(tmp_path):
    made, data = engine(), batch(tmp_path)
    # of step 3, which begins with version 2; the third of five tokens is nobody's
    rows = [torch.tensor([0, 1, -1, 2, 2])] * 2 + [torch.tensor([2, 2, -1, 2, 2])] * (len(ADVANTAGES) - 2)
    data[ROLLOUT_VERSIONS] = torch.nested.as_nested_tensor(versions(*rows), layout=torch.jagged)
    tu.assign_non_tensor(data, **{STEP_KEY: 3})
    loss = partial(ppo_loss, config=actor_config(TrmConfig(max_token_kl=1e6, estimator="exact")))
    with made.train_mode():
        told = made.train_batch(data, loss)["metrics"]
    metrics = final_metrics({name: value[0] for name, value in told.items() if isinstance(value, list)})
    assert [metrics[f"trm/tokens_lag_{lag}"] for lag in (0, 1, 2)] == pytest.approx([20 / 24, 2 / 24, 2 / 24])
    assert [metrics[f"trm/acceptance_lag_{lag}"] for lag in (0, 2)] == [1, 1]
    assert metrics["trm/token_kl_mean_lag_2"] > 0
    # the oldest token of none has lag 1, and no token lag 3
    assert not {"trm/acceptance_lag_1", "trm/kept_tokens_lag_3"} & metrics.keys()
    assert (metrics["trm/sequences_lag_1"], metrics["trm/tokens_lag_3"]) == (0, 0)
    dumped = pyarrow.parquet.read_table(tmp_path).to_pylist()
    assert [row["rollout_versions"] for row in dumped] == [row.tolist() for row in rows]
