"""The checker sees planted faults, and says what to do about them."""

from typing import Any

import gymnasium
import pytest

import trm_envs
from tests.envs import faulty_envs as fakes
from trm_envs.checker import Finding, assert_passes, check, check_names

pytestmark = pytest.mark.slow

PLANTED = [
    (fakes.DrawsFromTheGlobalState, "same_seed", "self.np_random"),
    (fakes.SeedsTheGlobalState, "global_random", "self.np_random"),
    (fakes.DependsOnTheHashSeed, "fresh_process", "no hash"),
    (fakes.IgnoresTheSeed, "seeds_differ", "make_task"),
    (fakes.LeaksTheSplit, "splits", "task_key"),
    (fakes.IgnoresTheSplit, "splits", "options.split"),
    (fakes.CrashesOnJunk, "junk", "ValueError"),
    (fakes.CrashesOnJunk, "fuzz:hermes", "raised ValueError"),
    (fakes.VoidsOnJunk, "junk", "cannot be read"),
    (fakes.VoidsOnJunk, "fuzz:tags", "takes the episode out of every rate"),
    (fakes.HasAWrongSolver, "solver:4", "earned 0.0"),
    (fakes.HasAnotherReward, "solver:1", "earned 2.0"),
    (fakes.HasAnotherReward, "json", "from 0 to 1"),
    (fakes.PaysForEveryCall, "rewards", "add up to"),
    (fakes.PaysForTheLastCall, "rewards", "add up to"),
    (fakes.CostsEveryCall, "rewards", "never finishing"),
    (fakes.CostsLessUnfinished, "rewards", "never finishing"),
    (fakes.PlaysOnAfterItsEnd, "outside_episode", "after the solver's last turn"),
    (fakes.VariesItsOneTask, "seeds_differ", "leave it out"),
    (fakes.NeverAnswers, "solver:1", "has not ended"),
    (fakes.ShowsNoJson, "json", "not JSON"),
    (fakes.RewardsJunk, "junk", "0.0"),
    (fakes.EndsOnMalformedCalls, "malformed", "go on"),
    (fakes.BearsAGrudge, "malformed", "change nothing"),
    (fakes.TakesAnyOption, "options", "is accepted"),
    (fakes.StepsOutsideEpisodes, "outside_episode", "before reset"),
    (fakes.FailsInLongEpisodes, "many_turns", "MemoryError"),
    (fakes.LeaksDescriptors, "close", "file descriptors"),
    (fakes.LeaksThreads, "close", "threads"),
    (fakes.LeaksProcesses, "close", "child processes"),
]


def look(env: object, name: str, **settings: object) -> Finding:
    (finding,) = check(env, only=[name], **settings)  # type: ignore[arg-type]
    return finding


@pytest.mark.parametrize("name", check_names())
def test_the_sound_fake_passes(name: str) -> None:
    finding = look(fakes.Sound, name)
    assert (finding.outcome, finding.check) == ("ok", name), finding.message


@pytest.mark.parametrize(("env", "name", "words"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_seen(env: type, name: str, words: str) -> None:
    finding = look(env, name)
    assert finding.failed
    assert words in finding.message


def test_a_slow_step_is_seen() -> None:
    finding = look(fakes.IsSlow, "fuzz:hermes", deadline_s=0.1)
    assert finding.failed
    assert "more than 0.1" in finding.message
    assert look(fakes.IsSlow, "fuzz:hermes", deadline_s=5.0, num_fuzz=20).outcome == "ok"


def test_a_check_that_hangs_is_given_up_and_the_rest_skipped() -> None:
    found = check(fakes.Hangs, only=["outside_episode", "close"], check_limit_s=0.5)
    assert [finding.outcome for finding in found] == ["failed", "skipped"]
    assert "did not return within 0.5 s" in found[0].message


def test_without_a_solver_its_checks_are_skipped_and_say_so() -> None:
    found = check(fakes.HasNoSolver, num_fuzz=50)
    outcomes = {finding.check: finding.outcome for finding in found}
    assert {name for name, outcome in outcomes.items() if outcome == "skipped"} == {"solver:1", "solver:4", "solver:50"}
    assert "failed" not in outcomes.values()
    assert "define solution()" in next(finding.message for finding in found if finding.check == "solver:1")


class _Unfinished(trm_envs.ToolEnv):
    """A solver whose helper is not written."""

    def make_task(self) -> str:
        return str(self.np_random.random())

    def score(self, answer: str) -> float:
        return float(answer == "1")

    def solution(self) -> str:
        return self.answer(self._plan())

    def _plan(self) -> str:
        raise NotImplementedError


def test_a_solver_that_is_there_and_says_that_it_is_not_is_named_with_its_place() -> None:
    (finding,) = check(_Unfinished, only=["solver:1"], num_fuzz=1)
    assert finding.outcome == "skipped"
    assert finding.message.startswith("no scripted solver for this task: NotImplementedError at test_checker.py:")
    assert finding.message.endswith(" in _plan (nor for 19 other seeds)")


class _Lucky(fakes.Sound):
    """A game of which every fourth task can be won."""

    def solution(self) -> str:
        if self.seed % 4:
            raise NotImplementedError("it cannot be won")
        return super().solution()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.seed = seed or 0
        return super().reset(seed=seed, options=options)


class _LuckyButWrong(_Lucky):
    """Its solver's answer is wrong."""

    def score(self, answer: str) -> float:
        return 0.0


def test_a_solver_is_checked_on_a_task_that_can_be_solved() -> None:
    (found,) = check(_Lucky, only=["solver:1"], num_fuzz=1, seed=5)
    assert (found.outcome, found.message) == ("ok", "with seed 8; of seed 5 to 7 there is no solver")
    assert check(_Lucky, only=["solver:1"], num_fuzz=1, seed=8)[0].message == ""
    (finding,) = check(_LuckyButWrong, only=["solver:1"], num_fuzz=1, seed=5)
    assert finding.outcome == "failed"
    assert "the solver earned 0.0" in finding.message


class _GivesUp(fakes.Sound):
    """A solver that fails by mistake after its first turn."""

    def solution(self) -> str:
        if len(self.left) < self.options.horizon:
            raise NotImplementedError
        return super().solution()


def test_a_solver_that_fails_after_its_first_turn_is_not_skipped() -> None:
    (finding,) = check(_GivesUp, only=["solver:4"], num_fuzz=1)
    assert finding.outcome == "failed"
    assert "the solver earned 0.0" in finding.message


def test_a_factory_that_no_other_process_can_import_skips_that_check() -> None:
    class Local(fakes.Sound):
        """Defined in a function."""

    assert look(Local, "fresh_process").outcome == "skipped"


def test_after_the_budget_calls_and_answers_are_only_parsed() -> None:
    assert "0 parsed only" in look(fakes.Sound, "fuzz:fenced").message
    finding = look(fakes.Sound, "fuzz:fenced", fuzz_budget_s=0.0)
    assert finding.outcome == "ok"
    assert "0 ran a tool" in finding.message


def test_a_refused_horizon_is_a_skip_that_says_so() -> None:
    (finding,) = check(fakes.Sound, horizons=[20_000], only=["solver:20000"])
    assert finding.outcome == "skipped"
    assert "from 1 to 10000" in finding.message


def test_what_is_no_such_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'trm/ChainMath-v0'"):
        check("trm/ChainMat-v0")
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        check("no_such_module:x/Y-v0")
    with pytest.raises(ValueError, match=r"not a trm_envs\.ToolEnv"):
        check("CartPole-v1")
    with pytest.raises(ValueError, match="only: got"):
        check(fakes.Sound, only=["solve"])


def test_assert_passes_lists_every_failure() -> None:
    assert_passes(fakes.Sound, only=["junk"])
    with pytest.raises(AssertionError, match=r"junk: .*\n.*fuzz:hermes: "):
        assert_passes(fakes.CrashesOnJunk, only=["junk", "fuzz:hermes"])


def test_an_id_of_another_package_is_found_by_its_module() -> None:
    gymnasium.register("tests/Sound-v0", entry_point="tests.envs.faulty_envs:Sound")
    try:
        assert look("tests.envs.faulty_envs:tests/Sound-v0", "fresh_process").outcome == "ok"
    finally:
        gymnasium.registry.pop("tests/Sound-v0")
