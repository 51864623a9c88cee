"""Settings, reading and tables of `benchmarks.staleness`; nothing here trains."""

import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from benchmarks.staleness import jobs, missing, tables
from benchmarks.staleness_cause import cause_table, lowest
from benchmarks.staleness_figures import num_sequences, num_tokens, seconds_a_step, step_seconds, weighted
from benchmarks.staleness_job import (
    CAUSE,
    COLOCATE,
    DROP,
    KILLS,
    LEARNING,
    PHASES,
    SEPARATE,
    SIDES,
    SYNC,
    UNMASKED,
    WALL,
    WORKLOADS,
    Episode,
    Job,
    Kill,
    Result,
    read_result,
)
from benchmarks.staleness_learning import held_out, learning_table
from benchmarks.staleness_runs import episodes_of, kept
from benchmarks.staleness_tables import audit, kept_table, kills_table, spread, wall_table
from trm_agent.tasks import TRAIN, task_seed


def job(part: str, side: str, seed: int = 0, steps: int = 4) -> Job:
    return Job(part, side, seed, steps, 500, "abc")


def row(step: int, time: float, **values: float) -> dict[str, float]:
    return {"step": step, "time": time, "timing_s/step": 1.0, **values}


def result(part: str, side: str, seconds: float = 2.0, seed: int = 0, **values: float) -> Result:
    """A run of four steps that take as long as each other."""
    return Result(job(part, side, seed), tuple(row(step, 100 + step * seconds, **values) for step in (1, 2, 3, 4)))


def episodes(tasks: list[int], group: int, first_step: int = 1, a_step: int = 8) -> tuple[Episode, ...]:
    """All episodes of tasks, in the order in which steps take them."""
    horizons = WORKLOADS[WALL].horizons
    return tuple(
        Episode(first_step + place // a_step, 0, task, horizons[task % 4], 2, 40, 1.0)
        for place, task in enumerate(tasks)
        for _ in range(group)
    )


def cells(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_seconds_a_step_leave_out_the_first_two_and_what_belongs_to_none():
    # 9, 2 and 4 s, of the last 1 s of validation; the second step is warm-up still
    rows = (row(1, 100), row(2, 109), row(3, 111), row(4, 115, **{"timing_s/testing": 1.0}))
    run = Result(job(WALL, SYNC), rows)
    assert step_seconds(run) == [2.0, 3.0]
    assert seconds_a_step(run) == 2.5
    assert step_seconds(replace(run, rows=rows[:2])) == [9.0]


def test_a_mean_over_tokens_is_weighted_by_how_many_it_is_of():
    # 0.1 over a tenth of 100 + 100 tokens, 0.2 over three tenths of 400; the step without such tokens has no say
    sizes = ({0: 100.0, 64: 100.0}, {64: 400.0}, {0: 900.0})
    tokens = [{f"trm/num_tokens_depth_{first}": number for first, number in size.items()} for size in sizes]
    rows = (row(1, 1, kl=0.1, share=0.1), row(2, 2, kl=0.2, share=0.3), row(3, 3, share=0.0))
    run = Result(job(LEARNING, "side"), tuple(one | more for one, more in zip(rows, tokens, strict=True)))
    assert weighted("kl", num_tokens, run, share="share") == pytest.approx((0.1 * 20 + 0.2 * 120) / 140)
    # the share over the run
    assert weighted("share", num_tokens, run) == pytest.approx((20 + 120) / 1500)
    assert weighted("kl", num_sequences, run) is None


def test_held_out_success_before_needs_a_validation_before():
    before, after = {"step": 0, "time": 0, "env/val_success/h4": 0.25}, row(4, 9, **{"env/val_success/h4": 0.5})
    both, one = Result(job(LEARNING, "side"), (after, before)), Result(job(LEARNING, "side"), (after,))
    assert (held_out(4, False, both), held_out(4, True, both)) == (0.25, 0.5)
    assert (held_out(4, False, one), held_out(4, True, one)) == (None, 0.5)
    assert held_out(8, True, both) is None


def test_learning_stands_side_by_side_with_the_spread_over_seeds():
    first, second = f"{COLOCATE}, trm", f"{COLOCATE}, {UNMASKED}"
    names = ("env/success", "trm/tokens_lag_1", "trm/acceptance_span_1", "trm/sequences_span_1")
    names = (*names, "trm/num_sequences", "trm/num_tokens_depth_0")
    runs = [result(LEARNING, first, seed=seed, **dict.fromkeys(names, 0.5 + seed / 10)) for seed in (0, 1)]
    table = learning_table([*runs, result(LEARNING, second, **{"env/success": 0.25})])
    assert table.splitlines()[0] == f"|  | {first} (2) | {second} (1) |"
    assert cells(table, "success, last 5 steps") == ["55.0% (50.0% to 60.0%)", "25.0%"]
    assert cells(table, "lag 1: share of tokens") == ["55.0% (50.0% to 60.0%)", "-"]
    assert cells(table, "span 1: acceptance") == ["55.0% (50.0% to 60.0%)", "-"]
    # what no run has is left out
    assert "lag 2" not in table


def test_a_fall_is_told_by_its_lowest_steps_in_a_row():
    # 0.1 + 0.2 + 0.3 by 3, and no window over the end
    success = (0.9, 0.5, 0.3, 0.2, 0.1, 0.6, 0.0)
    rows = [row(step, step, **{"env/success": value}) for step, value in enumerate(success, start=1)]
    run = Result(job(CAUSE, next(iter(SIDES[CAUSE]))), tuple(reversed(rows)))
    assert lowest(3, run) == pytest.approx(0.2)
    assert lowest(8, run) is None


def test_what_learning_hangs_on_stands_a_line_a_side():
    names = ("env/success", "trm/acceptance_positive", "actor/grad_norm")
    first, second = list(SIDES[CAUSE])[:2]
    runs = [result(CAUSE, first, seed=seed, **dict.fromkeys(names, 0.5 + seed / 10)) for seed in (0, 1)]
    # kept in steps 4 to 10 alone
    early = {**runs[0].rows[0], "trm/acceptance_positive": 0.0}
    runs[0] = replace(runs[0], rows=(early, *runs[0].rows[1:]))
    table = cause_table([result(CAUSE, second, **{"env/success": 0.25}), *runs])
    assert table.index(f"| {first} (2) |") < table.index(f"| {second} (1) |")
    line = dict(zip(cells(table, ""), cells(table, f"{first} (2)"), strict=True))
    assert line["last 5"] == "55% (50% to 60%)"
    assert line["of A > 0"] == "55% (50% to 60%)"
    assert line["largest gradient norm"] == "0.55 (0.50 to 0.60)"
    assert cells(table, f"{second} (1)")[1] == "25%"


def test_the_longest_is_told_against_the_median_of_its_step():
    # 8 to 1 and 4 to 2; the median of 8 and 2
    lengths = {1: (1.0, 1.0, 8.0), 2: (2.0, 2.0, 4.0)}
    played = tuple(Episode(step, 0, 0, 1, 2, 40, each) for step, of in lengths.items() for each in of)
    run = Result(job(WALL, SYNC), (), played)
    assert spread(lambda episode: episode.seconds, run) == 5.0
    assert spread(lambda episode: episode.turns, run) == 1.0
    assert spread(lambda episode: episode.turns, replace(run, episodes=())) is None


def test_time_is_compared_at_equal_seeds():
    # 1 by 2, and 3 by 4; the third has no neighbour
    runs = [result(WALL, SYNC, 2.0), result(WALL, SYNC, 4.0, seed=1)]
    runs += [result(WALL, COLOCATE, seconds, seed) for seed, seconds in enumerate((1.0, 3.0, 9.0))]
    table = wall_table(runs)
    assert cells(table, f"{COLOCATE}, 3 runs")[-1] == "0.62 (0.50 to 0.75)"
    assert cells(table, f"{COLOCATE}, seed 2")[-1] == "-"
    assert cells(table, f"{SYNC}, seed 1")[-1] == "1.00"


def test_a_run_that_loses_nothing_has_trained_on_all_tasks_but_those_of_the_last_step():
    # 24 tasks are due in four steps of 8; a later one came before the last of these
    run = replace(result(WALL, COLOCATE), episodes=episodes([*range(23), 25, 23, *range(26, 33)], group=4))
    found = audit(run)
    assert (found.due, found.lost, found.twice, found.lacking) == (24, (), (), 0)


def test_lost_tasks_tasks_trained_on_twice_and_lacking_episodes_are_told():
    played = [*episodes([*range(3), *range(4, 24)], group=4)[1:], replace(episodes([5], 1)[0], step=3)]
    found = audit(replace(result(WALL, COLOCATE), episodes=tuple(played)))
    # the first task lacks an episode, and the sixth, which has one too many, makes up for none
    assert (found.lost, found.twice, found.lacking) == ((3,), (5,), 1)


def test_what_a_strategy_loses_is_told_by_length():
    dropped = [3, 7, 11, 12]
    kept_ones = [task for task in range(36) if task not in dropped]
    values = {"env/evicted_episodes": 4.0, "env/evicted_length_q1": 0.0, "env/evicted_length_q4": 0.5}
    runs = [
        replace(result(WALL, SYNC), episodes=episodes(list(range(32)), group=4)),
        replace(result(WALL, DROP, **values), episodes=episodes(kept_ones, group=4)),
    ]
    table = kept_table(runs)
    assert cells(table, SYNC) == ["24", "0", "0", "0", "0", "0", "-", "-", "-", "-"]
    # one short task and three long ones of four episodes, and four evicted in each of four steps
    assert cells(table, DROP)[:6] == ["24", "1", "3", "16", "0", "16"]
    assert (cells(table, DROP)[6], cells(table, DROP)[9]) == ("0% (0% to 0%)", "50% (50% to 50%)")


def test_a_kill_is_told_with_what_it_left():
    first, second = f"{COLOCATE}, {PHASES[0]}", f"{SEPARATE}, {PHASES[1]}"
    whole = replace(
        result(KILLS, first), episodes=episodes(list(range(8)), group=8, a_step=2), kill=Kill(3, 2, too_late=0)
    )
    broken = replace(whole, job=job(KILLS, second), rows=whole.rows[:3], episodes=whole.episodes[16:])
    table = kills_table([broken, whole])
    assert cells(table, first) == ["3", "2", "1 to 4", "8", "0", "0", "0", "0", "0"]
    assert cells(table, second) == ["3", "2", "1, 2, 3", "6", "0", "2", "0", "0", "0"]


def test_both_asynchronous_modes_are_killed_in_every_phase():
    told = [(SIDES[KILLS][each.side].mode, each.phase) for each in jobs([KILLS], [0], None, 500, "abc")]
    assert told == [(mode, phase) for mode in (COLOCATE, SEPARATE) for phase in PHASES]


def test_sides_of_a_seed_follow_each_other_and_what_is_stored_is_not_made_again(tmp_path):
    wanted = list(jobs([WALL, KILLS], [0, 1], None, 500, "abc"))
    assert [(each.seed, each.side) for each in wanted] == [
        *((seed, side) for seed in (0, 1) for side in SIDES[WALL]),
        *((0, side) for side in SIDES[KILLS]),
    ]
    assert len({each.name for each in wanted}) == len(wanted)
    only = jobs([LEARNING, CAUSE], [0, 1], None, 500, "abc", sides=["token", "stop"])
    assert [(each.seed, each.side) for each in only] == [(0, "stop"), (0, "token"), (1, "stop"), (1, "token")]
    assert {each.steps for each in jobs([LEARNING, KILLS], [0], 2, 500, "abc")} == {2, 8}
    run = replace(result(WALL, DROP), job=wanted[3], episodes=episodes([1], 2), kill=Kill(3, 2, 1))
    run.write(tmp_path / f"{wanted[3].name}.json")
    assert list(missing(iter(wanted), tmp_path)) == [*wanted[:3], *wanted[4:]]
    assert read_result(tmp_path / f"{wanted[3].name}.json") == run


def test_runs_of_another_code_or_length_have_tables_of_their_own():
    runs = [result(WALL, SYNC), result(WALL, SYNC, seed=1), result(LEARNING, f"{SEPARATE}, trm")]
    runs.append(replace(runs[0], job=replace(runs[0].job, commit="def")))
    heads = [line for line in tables(runs).splitlines() if line.endswith(")") and line[0] != "|"]
    assert heads == [
        "wall, 4 steps, 500 ms a call (abc)",
        "learning, 4 steps (abc)",
        "wall, 4 steps, 500 ms a call (def)",
    ]
    assert tables([]) == ""


def test_rows_keep_what_the_tables_are_made_of():
    names = (
        "step",
        "time",
        "timing_s/gen",
        "trm/token_kl_mean_lag_1",
        "trm/acceptance_span_3",
        "env/evicted_length_q4",
        "trm/acceptance_length_q4",
        "trm/acceptance_negative",
        "trm/contribution_positive_masked",
        "trm/num_tokens_depth_64",
        "trm/token_kl_mean",
    )
    dropped = ("trm/horizon", "trm/bound_stop", "env/ending/h2/solved", "actor/lr", "trm/token_kl_mean_k3")
    assert list(kept(dict.fromkeys((*names, *dropped), 1.0))) == list(names)


def test_episodes_are_read_from_dumps_with_the_number_of_their_task(tmp_path):
    record = {
        "seed": task_seed(0, TRAIN, 5),
        "options": {"horizon": 1},
        "turns": [{}, {}],
        "timings": {"generate": 0.5, "env": 0.25, "paused": 9.0, "total": 9.75},
    }
    columns = {"step": [3], "update": [1], "response_mask": [[True, False, True]], "episode": [json.dumps(record)]}
    file = tmp_path / "step_000003.update_001.rank_000.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    # its pause is the trainer's time
    assert list(episodes_of(tmp_path, job(WALL, SYNC))) == [Episode(3, 1, 5, 1, 2, 3, 0.75)]
    with pytest.raises(ValueError, match="none of the first 240 of the run"):
        list(episodes_of(tmp_path, job(WALL, SYNC, seed=1)))
