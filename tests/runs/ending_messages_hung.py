"""Messages of runs that a deadline of the driver's ended, as it and torch wrote them, shortened."""

from tests.runs.ending_texts import DIED, remote
from trm_agent.runs.endings.rules import Again

HUNG_CASES = [
    (
        "weights: hung",
        "the weight synchronisation took longer than 600 s (run.weight_sync_timeout_s); giving up\n" + DIED,
        "",
        "the weight synchronisation took longer than 600 s",
        Again.RESUMES,
    ),
    (
        "weights: hung",
        "the first weight synchronisation took longer than 600 s (run.weight_sync_timeout_s); ranks that answered: 1, "
        "that did not: 0; their stacks: stacks.txt; giving up\n" + DIED,
        "",
        "the engine did not take the weights; ranks that answered: 1, that did not: 0; their stacks: stacks.txt",
        Again.RESUMES,
    ),
    (
        "episodes: out of reach",
        "the rollout server at 192.0.2.2:8000 and its episodes could not be reached for 600 s "
        "(run.weight_sync_timeout_s): The actor 2d78 is unavailable: The actor is temporarily unavailable: IOError: "
        "RpcError. The task may or may not have been executed on the actor.\n" + DIED,
        "",
        "the rollout server at 192.0.2.2:8000 and its episodes could not be reached for 600 s",
        Again.RESUMES,
    ),
    (
        "rest: hung",
        "the engines' rest before an update took longer than 600 s (run.weight_sync_timeout_s); ranks that answered: "
        "0, 1, that did not: none; their stacks: stacks.txt; giving up\n" + DIED,
        "",
        "an engine did not stop or free its memory; ranks that answered: 0, 1, that did not: none",
        Again.RESUMES,
    ),
    (
        "start: hung",
        "the start of the rollout engines took longer than 1800 s (run.start_timeout_s); giving up\n" + DIED,
        "",
        "the start of the rollout engines took longer than 1800 s",
        Again.THEN_RESUMES,
    ),
    (
        "phase: hung",
        "the update of the policy took longer than 3600 s (run.phase_timeout_s); ranks that answered: 1, that did not: "
        "0, 2; their stacks: stacks.txt; giving up\n" + DIED,
        "",
        "the update of the policy took longer than 3600 s (run.phase_timeout_s); ranks that answered: 1, that did not: "
        "0, 2; their stacks: stacks.txt",
        Again.RESUMES,
    ),
    (
        "collective: hung",
        "saving the checkpoint: a collective took longer than actor_rollout_ref.nccl_timeout; ranks that answered: "
        "none, that did not: 0, 1; their stacks: stacks.txt\n"
        + remote("RuntimeError: [/pytorch/gloo/unbound_buffer.cc:78] Timed out waiting 600000ms for recv to complete"),
        "",
        "saving the checkpoint: a collective took longer than actor_rollout_ref.nccl_timeout; ranks that answered: ",
        Again.RESUMES,
    ),
]
