"""The table that says whose fault it was: complete, and never two minds about a reason."""

import re
from pathlib import Path

import pytest

from trm_agent.episode import Fault, Limits, StopReason
from trm_agent.episode.outcomes import (
    OUTCOMES,
    SCORER_ERRORS,
    Cause,
    ContractBroken,
    Score,
    cause_of_clock,
    cause_of_error,
)
from trm_envs import InfrastructureError, VerifierError
from trm_envs.python_tool import show_result
from trm_envs.sandbox import Result, Status
from trm_envs.scoring.verify import Verdict

INFRASTRUCTURE = {
    "env_error",
    "env_timeout",
    "verifier_error",
    "generator_error",
    "generator_timeout",
    "episode_timeout",
    "prompt_too_long",
    "chat_error",
}
POLICY = {
    "terminated",
    "truncated",
    "max_turns",
    "max_tokens",
    "max_tool_calls",
    "max_malformed_turns",
    "max_tool_time",
}

# None: the model is told, or its hidden test fails
STATUSES = {
    Status.OK: None,
    Status.ERROR: None,
    Status.TIMEOUT: None,
    Status.MEMORY: None,
    Status.OUTPUT_LIMIT: None,
    Status.SANDBOX_ERROR: Cause.SAYS_INFRASTRUCTURE,
    Verdict.CORRECT: Cause.OVER,
    Verdict.WRONG: Cause.OVER,
    Verdict.NO_ANSWER: Cause.OVER,
    Verdict.VERIFIER_ERROR: Cause.UNDECIDED,
}


def test_the_stop_reasons_are_a_closed_set_split_in_two():
    assert {reason.value for reason in StopReason} == INFRASTRUCTURE | POLICY
    assert {reason.value for reason in StopReason if reason.is_infrastructure_failure} == INFRASTRUCTURE


def test_a_stop_reason_prints_as_its_value():
    assert f"{StopReason.MAX_TURNS}" == "max_turns"
    assert StopReason("max_turns") is StopReason.MAX_TURNS


def test_every_cause_and_every_reason_has_a_row():
    assert set(OUTCOMES) == set(Cause)
    assert {outcome.reason for outcome in OUTCOMES.values()} == set(StopReason)


def test_the_rows_of_a_reason_agree_on_infrastructure():
    for reason in StopReason:
        faults = {outcome.fault is Fault.INFRASTRUCTURE for outcome in OUTCOMES.values() if outcome.reason is reason}
        assert faults == {reason.is_infrastructure_failure}, reason


def test_infrastructure_alone_has_no_score():
    for outcome in OUTCOMES.values():
        assert (outcome.score is Score.NONE) == (outcome.fault is Fault.INFRASTRUCTURE), outcome


def test_what_the_models_text_breaks_scores_0():
    zero = {cause for cause, outcome in OUTCOMES.items() if outcome.score is Score.ZERO}
    assert zero == SCORER_ERRORS | {Cause.TOOL_TIME, Cause.STEP_HANGS_IN_TOOL}
    assert {OUTCOMES[cause].fault for cause in zero} == {Fault.MODEL}


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_an_exception_is_the_models_only_where_the_model_has_spoken(error):
    assert cause_of_error("make", error) is cause_of_error("reset", error) is Cause.MAKE_RAISED
    assert cause_of_error("step", error) is Cause.STEP_RAISED


@pytest.mark.parametrize("call", ["make", "reset", "step"])
def test_what_an_environment_calls_infrastructure_is(call):
    assert cause_of_error(call, InfrastructureError("x")) is Cause.SAYS_INFRASTRUCTURE
    assert cause_of_error(call, VerifierError("x")) is Cause.UNDECIDED


def test_a_broken_contract_is_the_models_only_where_the_model_has_spoken():
    assert cause_of_error("step", ContractBroken("x")) is Cause.STEP_BREAKS_CONTRACT
    assert cause_of_error("reset", ContractBroken("x")) is Cause.MAKE_RAISED


def test_a_clock_is_the_models_only_where_its_programs_have_used_up_their_time():
    assert cause_of_clock("step", True) is Cause.STEP_HANGS_IN_TOOL
    assert cause_of_clock("step", False) is Cause.STEP_HANGS
    assert {cause_of_clock(call, used) for call in ("make", "reset") for used in (True, False)} == {Cause.MAKE_HANGS}
    assert cause_of_clock("generate", True) is Cause.ENGINE_LATE


def test_every_status_has_a_row_and_the_environments_follow_it():
    assert set(STATUSES) == {*Status, *Verdict}
    for status in Status:
        result = Result(status, "", "", None, 0.0)
        if STATUSES[status] is None:
            assert show_result(result)
        else:
            with pytest.raises(InfrastructureError) as raised:
                show_result(result)
            assert cause_of_error("step", raised.value) is STATUSES[status]


def test_the_docs_hold_the_table():
    page = (Path(__file__).parents[2] / "docs" / "stop_reasons.md").read_text()
    rows = [
        f"| {cause} | `{outcome.reason}` | {outcome.fault} | {outcome.score} |" for cause, outcome in OUTCOMES.items()
    ]
    assert [line for line in page.splitlines() if line.count("|") == 5 and "`" in line.split("|")[2]] == rows
    defaults = {match[1]: float(match[2]) for match in re.finditer(r"^\| `(\w+_s)` \| (\d+) \|", page, re.M)}
    assert defaults == {name: getattr(Limits(), name) for name in vars(Limits()) if name.endswith("_s")}
