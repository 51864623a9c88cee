"""Reading, statistics and tables of `benchmarks.peers`; nothing here needs TRL or trains."""

import ast
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import gymnasium
import pyarrow.parquet
import pytest

from benchmarks import peers_job
from benchmarks.peers import held_out_table, missing, stored
from benchmarks.peers_env import ENV_ID
from benchmarks.peers_job import OURS, TRL, Job, Result, Step, read_result
from benchmarks.peers_sides import check_prompts, on_clock, overrides, step_of
from benchmarks.peers_tables import by_seed, figures, learning_table, mean, pairs_of, step_seconds, time_table, windows
from benchmarks.peers_watch import Watched, parse_busy_ticks, parse_pss_kib, parse_ticks
from trm_envs.tasks.chain_math import ChainMath


def result(side: str, seconds: list[float], *, seed: int = 0, success: float = 0.5, **job: float) -> Result:
    """A run that starts at 100 and whose first step ends at 110; `seconds` are those of the steps after it."""
    ends = [110.0]
    for each in seconds:
        ends.append(ends[-1] + each)
    steps = tuple(Step(end=end, generation=1.0, update=0.5, tokens=512, episodes=128, success=success) for end in ends)
    settings = {"tool_ms": 0, "pair": 0, **job}
    return Result(
        Job(side, seed, len(steps), commit="abc", **settings), 100.0, steps, 2.0, 5, 0.1, {"torch": "2"}, "model"
    )


def test_seconds_begin_with_the_third_step():
    # ends 110, 119, 121, 125, 128: step 2 took 9 s and is left out; 3 to 5 took 2, 4 and 3 s; 512 tokens, 128 episodes
    found = figures(result(OURS, [9.0, 2.0, 4.0, 3.0]))
    assert (found.step, found.fastest, found.slowest) == (3.0, 2.0, 4.0)
    assert found.tokens_per_s == pytest.approx(3 * 512 / 9)
    assert found.tokens_per_episode == 4.0
    assert found.first == 10.0


def test_a_checkpoint_and_a_validation_belong_to_no_step():
    # the step's own 3 s, 2 s of a checkpoint within it and 4 s of a validation after it
    row = {
        "time": 200.0,
        "timing_s/step": 5.0,
        "timing_s/gen": 1.5,
        "timing_s/update_actor": 1.0,
        "timing_s/testing": 4.0,
        "timing_s/save_checkpoint": 2.0,
        "run/tokens_per_s": 1200.0,
        "env/num_episodes": 128,
        "env/success": 0.25,
    }
    last = step_of(row)
    assert (last.aside, last.tokens, last.generation) == (6.0, 6000, 1.5)
    run = result(OURS, [3.0])
    before = run.steps[-1]
    longer = Result(run.job, run.started, (*run.steps, step_of({**row, "time": before.end + 9.0})), 2.0, 5)
    assert step_seconds(longer) == [3.0, 3.0]


def test_a_run_of_two_steps_has_no_figures():
    with pytest.raises(ValueError, match="at least 3"):
        figures(result(OURS, [1.0]))


def test_only_whole_pairs_are_compared():
    ours, theirs, alone = result(OURS, [4.0] * 3), result(TRL, [2.0] * 3), result(OURS, [4.0] * 3, pair=1)
    assert list(pairs_of([alone, theirs, ours])) == [(0, 4, 0, 0, 0.0, "abc")]
    table = time_table([alone, theirs, ours])
    # 4 s against 2 s
    (ratios,) = [line for line in table.splitlines() if "ours by TRL" in line]
    assert ratios.split()[3] == "2.00"
    assert table.splitlines()[-1].startswith(alone.job.name[:31])


def test_a_tool_a_seed_or_a_commit_makes_another_pair():
    ours = result(OURS, [4.0] * 3)
    others = [result(TRL, [2.0] * 3, **changed) for changed in ({"tool_ms": 50}, {"seed": 1}, {"turn_s": 4})]
    for other in (*others, result(TRL, [2.0] * 4)):
        assert pairs_of([ours, other]) == {}


def test_runs_by_turns_are_stored_in_pairs_and_made_in_pairs(tmp_path):
    jobs = [Job(side, 0, 4, 0, pair, "abc", 4.0) for pair in (0, 1) for side in (OURS, TRL)]
    (tmp_path / f"{jobs[1].name}.json").touch()
    for job in jobs[2:]:
        (tmp_path / f"{job.name}.json").touch()
    assert [job.name for job in jobs[:2]] == [f"tool0-steps4-seed0-pair0-turns4-abc-{side}" for side in (OURS, TRL)]
    assert list(missing(iter(jobs), tmp_path, at_once=True)) == [jobs[:2]]
    assert list(missing(iter(jobs), tmp_path, at_once=False)) == [jobs[:1]]


def test_steps_are_told_on_the_clock_of_the_run():
    ran = Watched(100.0, 2.0, 5, 0.0, ((104.0, 110.0), (112.0, 115.0)))
    steps = [Step(end, 1.0, 0.5, 512, 128, 0.5) for end in (103.0, 111.0, 116.0)]
    assert [step.end for step in on_clock(steps, ran)] == [103.0, 105.0, 107.0]
    assert all(math.isnan(step.generation) and math.isnan(step.update) for step in on_clock(steps, ran))
    assert on_clock(steps, Watched(100.0, 2.0, 5, 0.0)) == tuple(steps)


def test_by_turns_a_step_with_something_set_aside_is_not_timed():
    run = result(OURS, [9.0, 2.0, 4.0, 3.0], turn_s=4.0)
    last = Step(run.steps[-1].end + 1.0, math.nan, math.nan, 512, 128, 0.5, aside=5.0)
    longer = Result(run.job, run.started, (*run.steps, last), 2.0, 5)
    assert (figures(longer).step, figures(longer).fastest) == (3.0, 2.0)
    assert figures(longer).tokens_per_s == pytest.approx(3 * 512 / 9)
    both = [longer, result(TRL, [2.0] * 5, turn_s=4.0)]
    assert "nan" not in time_table(both)


def test_windows_are_those_that_a_run_has():
    assert list(windows(4)) == ["1-3", "last 3"]
    assert windows(16) == {"1-3": slice(0, 3), "8-14": slice(7, 14), "last 3": slice(13, 16)}
    assert list(windows(13)) == ["1-3", "last 3"]


def test_the_interval_of_a_mean_is_students():
    # 1, 2, 3: standard deviation 1, quantile 4.303 of two degrees, over the root of 3
    three = mean([1.0, 2.0, 3.0])
    assert three.value == 2.0
    assert three.half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert mean([7.0]).half is None
    assert mean([5.0, 5.0]).half == 0.0


def test_runs_of_one_seed_count_once():
    # the seed 0 has 40 and 60 %, the seed 1 has 80 %: a mean of 65 %, not of 60 %
    runs = [result(OURS, [1.0] * 3, success=0.4), result(OURS, [1.0] * 3, success=0.6, pair=1)]
    runs.append(result(OURS, [1.0] * 3, success=0.8, seed=1, pair=2))
    assert {seed: row["1-3"] for seed, row in by_seed(runs).items()} == pytest.approx({0: 50.0, 1: 80.0})
    assert "65.0" in learning_table(runs)


def test_the_difference_is_taken_at_equal_seeds():
    # seed 0: 50 and 70 %; seed 1: 90 % of ours alone, which does not enter the difference
    runs = [result(OURS, [1.0] * 3), result(TRL, [1.0] * 3, success=0.7), result(OURS, [1.0] * 3, seed=1, success=0.9)]
    (line,) = [line for line in learning_table(runs).splitlines() if "ours - TRL" in line]
    assert line.split() == ["ours", "-", "TRL,", "1", "seeds", "-20.0", "-20.0"]


def test_a_gain_is_of_steps_8_to_14_over_1_to_3():
    run = result(OURS, [1.0] * 15)
    steps = tuple(
        Step(step.end, 1.0, 0.5, 512, 128, 0.7 if 8 <= number <= 14 else 0.4)
        for number, step in enumerate(run.steps, start=1)
    )
    assert by_seed([Result(run.job, 100.0, steps, 2.0, 5)])[0]["gain"] == pytest.approx(30.0)


def test_a_stored_result_reads_as_it_was(tmp_path):
    run = result(TRL, [1.0, 2.0])
    run.write(tmp_path / "run.json")
    assert read_result(tmp_path / "run.json") == run
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_prompts_of_the_last_step_are_held_against_those_of_trl(tmp_path):
    for step, prompts in ((1, [[1, 2]]), (4, [[1, 3], [1, 3], [1, 4]])):
        table = pyarrow.table({"prompt_ids": pyarrow.array(prompts, pyarrow.list_(pyarrow.int32()))})
        pyarrow.parquet.write_table(table, tmp_path / f"step_{step:06d}.update_000.rank_000.parquet")
    check_prompts(tmp_path, 4, [[1, 4], [1, 3]])
    for others in ([[1, 4]], [[1, 4], [1, 3], [1, 5]], [[1, 4, 0], [1, 3]]):
        with pytest.raises(ValueError, match="prompts differ"):
            check_prompts(tmp_path, 4, others)


def test_the_proportional_size_is_read_and_not_its_parts():
    text = "00400000-7fff ---p 00000000 00:00 0  [rollup]\nRss: 900 kB\nPss_Anon: 100 kB\nPss: 512 kB\nSwapPss: 3 kB\n"
    assert parse_pss_kib(text) == 512
    assert parse_pss_kib("") == 0


def test_idling_and_waiting_for_a_disk_are_not_busy():
    # user 1, nice 2, system 4, idle 8, iowait 16, irq 32, softirq 64, steal 128, guest 256
    assert parse_busy_ticks("cpu  1 2 4 8 16 32 64 128 256 0\ncpu0 9 9") == 1 + 2 + 4 + 32 + 64 + 128


def test_a_process_may_be_called_anything():
    # fields 14 and 15: 70 and 7 ticks
    assert parse_ticks("12 (a) 9 (b) S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0") == 77


ADOPTING = """
import os, signal, subprocess, sys
from benchmarks.peers_watch import adopt_orphans, descendants
adopt_orphans()
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
script = f"import subprocess; print(subprocess.Popen(['sleep', '30'], **{dict.fromkeys(quiet, -3)}).pid)"
orphan = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
print(orphan in descendants())
os.kill(orphan, signal.SIGKILL)
"""


def test_a_process_that_left_its_parent_stays_in_the_tree():
    # in a process of its own, which ends with those that it has adopted
    done = subprocess.run([sys.executable, "-c", ADOPTING], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_held_out_success_is_told_by_horizon_with_the_difference(tmp_path):
    rate = {"value": 0.5, "low": 0.25, "high": 0.75}
    summary = {
        "results": [{"checkpoint": "trl", "by_horizon": [{"horizon": 4, "success": rate}]}],
        "comparisons": [{"difference": -0.125, "low": -0.25, "high": 0.0, "p_value": 0.04}],
    }
    (tmp_path / "held-out-tool0-ours.json").write_text(json.dumps(summary))
    lines = held_out_table(tmp_path).splitlines()
    assert lines[1:] == ["  trl   horizon 4 50.0 % [25.0, 75.0]", "  ours - TRL -12.5 [-25.0, +0.0], p = 0.04"]
    assert stored(tmp_path) == []


def test_the_tool_sleeps_once_a_call(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    env = gymnasium.make(ENV_ID, tool_s=0.05)
    env.reset(seed=1, options={"horizon": 2})
    env.step(env.unwrapped.call("calculator", expression="1+1"))
    env.step("no call")
    assert slept == [0.05]


def test_the_tools_description_in_trls_program_is_ours():
    tree = ast.parse((Path(peers_job.__file__).parent / "peers_trl.py").read_text(encoding="utf-8"))
    (tool,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "calculator"]
    assert ast.get_docstring(tool) == inspect.cleandoc(ChainMath.calculator.__doc__ or "")
    assert tool.returns is None


def test_our_settings_are_those_that_trl_gets(tmp_path):
    from trm_agent.runs.compose import compose_run

    config = compose_run(overrides(Job(OURS, 3, 16, 50, 0, "abc"), "model", tmp_path))
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.env.kwargs.tool_s, config.env.train.seed, list(config.env.train.horizons)) == (0.05, 3, [2, 4, 6])
    assert (actor.optim.lr, actor.optim.lr_warmup_steps, actor.optim.lr_scheduler_type) == (5e-4, 5, "cosine")
    assert (actor.optim.weight_decay, actor.optim.clip_grad, actor.ppo_micro_batch_size_per_gpu) == (0.01, 1.0, 16)
    assert (rollout.n, rollout.temperature, rollout.top_p, rollout.dtype) == (8, 1.0, 1.0, "float32")
    assert (config.env.limits.max_turns, config.env.limits.max_turn_tokens, config.data.max_response_length) == (
        peers_job.MAX_TURNS,
        peers_job.TURN_TOKENS,
        peers_job.RESPONSE_TOKENS,
    )
