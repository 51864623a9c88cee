"""From what a run's end left behind to its cause, as a pure function: exception, log and facts in, two lines out."""

import os
import re
from dataclasses import asdict, dataclass

from trm_agent.runs.endings.facts import HUB, Facts, memory
from trm_agent.runs.endings.gpu_phase import with_phase
from trm_agent.runs.endings.hung import HUNG
from trm_agent.runs.endings.rules import EPISODES, MEND_THE_ENVIRONMENT, OF_EPISODES, RULES, Again, Rule
from trm_agent.runs.endings.told import Raised, one_line, plain, raised_in

# exceptions that only say that another process has failed
_ENVELOPES = re.compile(
    r"Engine core initialization failed|EngineCore (?:failed to start|encountered an issue)|EngineDeadError"
    r"|died unexpectedly|ActorDiedError|ActorUnavailableError|WorkerCrashedError|Failed core proc"
    r"|worker died|NodeDiedError|the actor is dead|EngineGenerateError"
)
_DEAD = re.compile(r"class_name: (?P<name>\S+)(?:.*?\bpid: (?P<pid>\d+))?", re.DOTALL)
_DEATH = re.compile(r"worker (?P<pid>\d+) was killed by signal (?P<number>\d+) \((?P<name>\w+)\)")
_CRASH = re.compile(r"\*\*\* (SIG\w+) received")
_KILL = 9
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Ending:
    """An unwanted end of a run."""

    name: str
    """Name of the cause; `UNKNOWN` where no rule has it."""
    cause: str
    """Cause in one line."""
    remedy: str
    """Next step of the user, an imperative clause."""
    again: Again
    """Worth of the same command."""


def explain(told: str, log: str, facts: Facts) -> Ending:
    """Return the first cause of an end.

    Args:
        told: the exception's text with its traceback, remote ones included.
        log: the log of this session, at least its end.
        facts: the disk, the memory and the model of the run.
    """
    raised, logged = raised_in(told), raised_in(log)
    return with_phase(_explained(told, log, raised, logged, facts), [*raised, *logged])


def _explained(told: str, log: str, raised: list[Raised], logged: list[Raised], facts: Facts) -> Ending:
    told, log = _words(plain(told), raised), plain(log)
    if episodes := EPISODES.search(told):
        return _of_episodes(episodes, log, facts)
    if found := _by_rule(told, facts):
        return found
    if not _ENVELOPES.search(told):
        return _unknown(raised, told)
    behind = [each for each in logged if not _ENVELOPES.search(f"{each.type}: {each.message}")]
    if died := _seen_death(told, log, facts):
        return died
    for each in reversed(behind):
        if found := _by_rule(f"{each.type}: {each.message}", facts):
            return found
    if _DEAD.search(told):
        return _guessed_death(told, log, facts)
    return _unknown(behind or raised, told)


def known_cause(told: str, model: str) -> str:
    """Return the cause of an exception where a rule has it, such as a hub that cannot be reached; else its words.

    Args:
        told: the words of the exception.
        model: the folder of the model, or its hub id.
    """
    found = _by_rule(told, Facts("a disk", "see df -h", memory(), 0, model, os.environ.get("HF_ENDPOINT", HUB)))
    return f"{found.cause}; {found.remedy}" if found else one_line(told)


def second_line(ending: Ending, step: int, log: str) -> str:
    """Return the line of the remedy, which promises a resume only where there is one.

    Args:
        ending: the end.
        step: the step of the last complete checkpoint; 0 without one.
        log: the path of the log.
    """
    goes_on = f"the same command resumes it after step {step}" if step else "the same command begins it anew"
    clauses = {
        Again.RESUMES: f"{ending.remedy}; {goes_on}",
        Again.THEN_RESUMES: f"{ending.remedy}; then {goes_on}",
        Again.REPEATS: f"{ending.remedy}; the same command would stop here again",
    }
    return f"{clauses[ending.again]} (all of it: {log})"


def _words(told: str, raised: list[Raised]) -> str:
    """Return what was said, without the lines of code in a traceback, which may quote anything."""
    if not raised:
        return told
    before = told.partition("Traceback (most recent call last)")[0]
    return "\n".join([before, *(f"{each.type}: {each.message}" for each in raised)])


def _by_rule(text: str, facts: Facts) -> Ending | None:
    # the driver's own words on what hung go before those of the processes that waited
    for rule in (*HUNG, *RULES):
        if match := rule.pattern.search(text):
            return _filled(rule, match, facts)
    return None


def _filled(rule: Rule, match: re.Match[str], facts: Facts) -> Ending:
    groups = [group or "" for group in match.groups()]
    known = {**asdict(facts), "match": one_line(match[0], 200)}
    for name, value in match.groupdict().items():
        if value:
            # the message's own word
            known[name] = value
            known["space"] = "it is full"
    cause, remedy = (template.format(*groups, **known).strip(" ;:") for template in (rule.cause, rule.remedy))
    return Ending(rule.name, cause, remedy, rule.again)


def _of_episodes(match: re.Match[str], log: str, facts: Facts) -> Ending:
    what, first, reason = match.groups()
    if reason.startswith("generator") and (found := _by_rule(first, facts)):
        return found
    if reason.startswith("generator") and _ENVELOPES.search(first):
        return _seen_death(first, log, facts) or _guessed_death(first, log, facts)
    remedy, again = OF_EPISODES.get(reason, MEND_THE_ENVIRONMENT)
    return Ending(f"episodes: {reason}", f"{what}; the first: {one_line(first)}", remedy, again)


def _seen_death(told: str, log: str, facts: Facts, *, whoever: bool = False) -> Ending | None:
    """Return the end by a signal to one of the run's processes, if anybody has seen it.

    Args:
        told, log, facts: as for `explain`.
        whoever: whether the death of another process than the one that `told` names counts.
    """
    dead = _DEAD.search(told)
    for death in _DEATH.finditer(log):
        if whoever or (dead and death["pid"] == dead["pid"]):
            number, cause = (
                int(death["number"]),
                f"{_name(dead)} was killed by signal {death['number']} ({death['name']})",
            )
            if number == _KILL and facts.num_oom_kills:
                return _perhaps_memory(cause, facts)
            why = ", as the kernel does when memory is used up" if number == _KILL else ""
            return Ending("signal", f"{cause}{why}; {facts.memory}", "look for who sent it", Again.RESUMES)
    return None


def _guessed_death(told: str, log: str, facts: Facts) -> Ending:
    """Return the end by a process that is gone: whoever died, perhaps the kernel's doing, a crash, or nobody knows."""
    name = _name(_DEAD.search(told))
    if other := _seen_death(told, log, facts, whoever=True):
        return other
    if crash := _CRASH.search(log):
        return Ending("crash", f"{name} crashed ({crash[1]})", "look for its stack in the log", Again.RESUMES)
    if facts.num_oom_kills:
        return _perhaps_memory(f"{name} ended without a word", facts)
    return Ending(
        "death", f"{name} ended without a word; {facts.memory}", "look for its last lines in the log", Again.RESUMES
    )


def _perhaps_memory(cause: str, facts: Facts) -> Ending:
    """Return an end that may be the kernel's; it counts the whole machine, programs in sandboxes included."""
    why = f"perhaps for memory: the kernel killed {facts.num_oom_kills} for it meanwhile, and {facts.memory}"
    remedy = "lower the batch or the lengths, or end what else uses the memory"
    return Ending("memory: kernel", f"{cause}, {why}", remedy, Again.THEN_RESUMES)


def _name(dead: re.Match[str] | None) -> str:
    """Return the class of a dead process, without the function in which it was made."""
    return f"the process {dead['name'].rpartition('.')[2]}" if dead else "a worker"


def _unknown(raised: list[Raised], told: str) -> Ending:
    """Return the end by an exception that no rule has: its type, message and place."""
    if raised:
        last = raised[-1]
        cause = f"{last.type}: {one_line(last.message)}" + (f" ({last.place})" if last.place else "")
    else:
        lines = [line for line in told.splitlines() if line.strip()] or ["no word was left"]
        cause = one_line(lines[-1])
    return Ending(UNKNOWN, cause, "mend that", Again.THEN_RESUMES)
