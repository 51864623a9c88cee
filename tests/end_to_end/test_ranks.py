"""Two ranks and two rollout servers, end to end: the first update is that of one plain process."""

from pathlib import Path

import pyarrow.parquet
import pytest

from tests.end_to_end.training import assert_complete, steps, train
from trm_agent.models.nano import NanoSpec, ensure_nano_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOSS = "actor_rollout_ref.actor.policy_loss"
MAX_TOKEN_KL = 0.05


def test_the_first_update_of_two_ranks_is_that_of_one_plain_process(tmp_path: Path) -> None:
    from tests.verl_plugin.replay_oracle import update_of

    run = tmp_path / "run"
    done = train(
        run,
        "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        # a mismatch, so that the first step has divergences
        "actor_rollout_ref.rollout.dtype=bfloat16",
        f"{LOSS}.trm.estimator=exact",
        f"{LOSS}.trm.max_token_kl={MAX_TOKEN_KL}",
        f"{LOSS}.dump.every=1",
        f"{LOSS}.dump.distributions=true",
    )
    assert_complete(run, done.stdout, num_steps=2)
    first, _ = steps(run)
    files = sorted((run / "rollouts").glob("step_000001.*"))
    assert [file.name for file in files] == [f"step_000001.update_000.rank_{rank:03d}.parquet" for rank in (0, 1)]
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert len(rows) == first["trm/num_sequences"] == 16
    # a mean over 16 sequences, each sum divided by the tokens of a response
    denominator = 16 * 288
    expected = update_of(rows, ensure_nano_model(NanoSpec()), MAX_TOKEN_KL, denominator).metrics
    assert expected["trm/token_kl_max"] > 5e-6
    # a sum over a sequence's hundred tokens, of which float32 rounds each KL by some 1e-8 nats
    kl_seq = "trm/kl_seq"
    assert first[kl_seq] == pytest.approx(expected.pop(kl_seq), rel=1e-3, abs=5e-6)
    assert {name: first[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-6)
    for name in ("actor/pg_loss", "actor/grad_norm"):
        assert first[name] == pytest.approx(expected[name], rel=1e-5)
