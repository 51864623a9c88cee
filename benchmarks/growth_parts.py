"""The parts of a run that hold whole episodes, each as a call: what `growth_turns` measures."""

import functools
import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.growth_episodes import Work, contexts, play

GIVEN = {"session_id": 0, "global_steps": 1, "env_task": "{}"}
PARAMS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True, "max_tokens": 128, "stop_token_ids": [1]}
# turns of a long episode that stand for all, where a turn takes long
SAMPLED_TURNS = 64


def send_turns(work: Work) -> int:
    """Send each turn to the server as a message, what is new alone; return the bytes."""
    from verl.utils.tokenizer import normalize_token_ids

    from trm_agent.verl_plugin.rollout.contexts import CONTEXT, KeptContexts, SentContext

    kept, num_bytes = KeptContexts(len(work.episodes)), 0
    for number, episode in enumerate(work.episodes):
        sent = SentContext(str(number))
        for context in contexts(episode):
            new, place = sent.send(context)
            message = pickle.dumps((new, {**PARAMS, **place}), protocol=5)
            tokens, params = pickle.loads(message)
            whole = kept.grown(*params[CONTEXT], tokens)
            assert whole is not None, "the server has just got the rest"
            assert len(whole) == len(context), "the same length on both sides"
            # the token that stands in for it, on its way through verl's server
            normalize_token_ids(whole[-1:])
            num_bytes += len(message)
    return num_bytes


def send_whole_contexts(work: Work) -> int:
    """Send the whole context with each turn, as verl does; some turns stand for all. Returns their bytes."""
    from verl.utils.tokenizer import normalize_token_ids

    num_bytes = 0
    for episode in work.episodes:
        for context in _some(episode):
            message = pickle.dumps((context, PARAMS), protocol=5)
            normalize_token_ids(pickle.loads(message)[0])
            num_bytes += len(message)
    return num_bytes


def take_in(work: Work, block: int) -> int:
    """Do what vLLM does with a request before it computes: a message to its core, and hashes of the prompt's blocks.

    Some turns stand for all. Returns the bytes of their messages.

    Args:
        work: with episodes.
        block: tokens in a block of the engine's cache.
    """
    from vllm import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.request import Request
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    sha256 = get_hash_fn_by_name("sha256")
    init_none_hash(sha256)
    hasher = get_request_block_hasher(block, sha256)
    encoder, decoder, num_bytes = MsgpackEncoder(), MsgpackDecoder(EngineCoreRequest), 0
    for episode in work.episodes:
        for context in _some(episode):
            settings = SamplingParams(max_tokens=128)
            asked = EngineCoreRequest("turn", context, None, settings, None, 0.0, None, None, None)
            frames = encoder.encode(asked)
            Request.from_engine_core_request(decoder.decode(frames), hasher)
            num_bytes += sum(memoryview(frame).nbytes for frame in frames)
    return num_bytes


def put_into_queue(work: Work) -> int:
    """Make the rows of verl's queue, and send them as it does; return the bytes."""
    from transfer_queue.utils.serial_utils import decode, encode
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    frames = encode(list_of_dict_to_tensordict([row.fields for row in _rows(work)]))
    decode(frames)
    return sum(memoryview(frame).nbytes for frame in frames)


def dump(work: Work) -> int:
    """Collect the sequences of an update, write them, read them; return the file's bytes."""
    import torch
    from tensordict import TensorDict

    from trm_agent.trust_region.dump import read_dump
    from trm_agent.trust_region.settings import DumpConfig, TrmConfig
    from trm_agent.verl_plugin.actor.dumping import collect_rows, write_rows
    from trm_agent.verl_plugin.actor.update import Update

    rows = [row.fields for row in _rows(work)]
    names = ("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "episode_record")
    columns = {name: [row[name] for row in rows] for name in names}
    columns["advantages"] = [torch.ones(len(row["responses"])) for row in rows]
    nested = {name: torch.nested.as_nested_tensor(each, layout=torch.jagged) for name, each in columns.items()}
    update = Update(step=1, dump=DumpConfig(directory=str(_rollouts(work))), trm=TrmConfig())
    sequences: Any = SimpleNamespace(accepted=torch.ones(len(rows), dtype=torch.bool), rejected_by={})
    part: Any = SimpleNamespace(sequences=sequences)
    update.parts.append(part)
    log_probs = torch.full((len(rows), max(len(row["responses"]) for row in rows)), -0.5)
    collect_rows(update, TensorDict(nested, batch_size=len(rows)), log_probs, None, None)
    write_rows(update, 0)
    read_dump(_rollouts(work))
    return sum(file.stat().st_size for file in _rollouts(work).iterdir())


def report(work: Work) -> int:
    """Build the page of the run whose dump is there; return its bytes."""
    from trm_agent.report.build import build_report

    run = _rollouts(work).parent
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "trm/acceptance": 1.0}\n')
    made = build_report([run], work.folder / "page.html", tokenizer=work.tokenizer)
    assert made.num_episodes == len(work.episodes), made.notes
    return made.num_bytes


def store(work: Work) -> int:
    """Keep the episodes and their results as an evaluation does, and read the results; return the files' bytes."""
    from trm_agent.evaluate.plan import Key
    from trm_agent.evaluate.results import RESULTS_FILE, read_results, result_row
    from trm_agent.evaluate.store import Store

    path = work.folder / "evaluation"
    path.mkdir(exist_ok=True)
    plan: Any = SimpleNamespace(checkpoints=[SimpleNamespace(label="model")])
    kept = Store(path, plan, True)
    for number, episode in enumerate(work.episodes):
        kept.save_episode("model", Key(work.env, number, 0), episode)
        kept.append(result_row("model", work.env, work.horizon, number, 0, episode))
    read_results(path / RESULTS_FILE)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _some(episode: Any) -> Iterator[list[int]]:
    """Yield the contexts of at most `SAMPLED_TURNS` turns, evenly spaced."""
    yield from islice(contexts(episode), 0, None, stride(episode.num_turns))


def stride(num_turns: float) -> int:
    """Return of how many turns one is taken where some stand for all."""
    return max(1, round(num_turns / SAMPLED_TURNS))


def _rows(work: Work) -> list[Any]:
    from trm_agent.verl_plugin.rollout.agent_loop import to_output
    from trm_agent.verl_plugin.rollout.distributions import record_field
    from trm_agent.verl_plugin.rollout.episodes_worker import row_of

    outputs = [to_output(episode, record_field(episode)) for episode in work.episodes]
    return [row_of(output, "train", {**GIVEN, "uid": str(number)}) for number, output in enumerate(outputs)]


def _rollouts(work: Work) -> Path:
    return work.folder / "run" / "rollouts"


PARTS: dict[str, Callable[[Work], int | None]] = {
    "episode loop": play,
    "turns to the server": send_turns,
    "rows to the queue": put_into_queue,
    "dump": dump,
    "report": report,
    "evaluation's store": store,
}
"""What has to be linear, in the order in which each needs the one before."""
FOREIGN: dict[str, Callable[[Work], int]] = {
    "whole contexts to verl's server": send_whole_contexts,
    # its own on a GPU, and a larger one
    "vLLM's intake, blocks of 16": functools.partial(take_in, block=16),
    "vLLM's intake, blocks of 128": functools.partial(take_in, block=128),
}
"""What is not: the way that turns took before, and the engine's own work for each."""
