"""Causes of an end by a deadline of the driver's, each with the words by which it is recorded."""

import re

from trm_agent.runs.endings.rules import Again, Rule

HUNG: tuple[Rule, ...] = (
    Rule(
        "weights: hung",
        re.compile(r"(the (?:first )?weight synchronisation) took longer than (\d+) s [^;\n]*([^\n]*); giving up"),
        "{0} took longer than {1} s (run.weight_sync_timeout_s): the engine did not take the weights{2}",
        "look for its error in the log, or raise run.weight_sync_timeout_s",
        Again.RESUMES,
    ),
    Rule(
        "episodes: out of reach",
        re.compile(r"(the [^\n]+? and its episodes) could not be reached for (\d+) s"),
        "{0} could not be reached for {1} s (run.weight_sync_timeout_s)",
        "look at the network between the machines, or raise run.weight_sync_timeout_s",
        Again.RESUMES,
    ),
    Rule(
        "rest: hung",
        re.compile(r"(the engines' rest before an update) took longer than (\d+) s [^;\n]*([^\n]*); giving up"),
        "{0} took longer than {1} s (run.weight_sync_timeout_s): an engine did not stop or free its memory{2}",
        "look for its error in the log, or raise run.weight_sync_timeout_s",
        Again.RESUMES,
    ),
    Rule(
        "start: hung",
        re.compile(r"(the start of the (?:rollout engines|trainer's ranks)) took longer than (\d+) s"),
        "{0} took longer than {1} s (run.start_timeout_s)",
        "look in the log for the process that does not come, or raise run.start_timeout_s",
        Again.THEN_RESUMES,
    ),
    Rule(
        "phase: hung",
        re.compile(r"([^\n]+) took longer than (\d+) s \(run\.phase_timeout_s\)([^\n]*); giving up"),
        "{0} took longer than {1} s (run.phase_timeout_s){2}",
        "look there for what the ranks wait for, or raise run.phase_timeout_s",
        Again.RESUMES,
    ),
    Rule(
        "collective: hung",
        re.compile(r"([^\n]+: a collective took longer than actor_rollout_ref\.nccl_timeout[^\n]*)"),
        "{0}",
        "look there for what the ranks wait for, or raise actor_rollout_ref.nccl_timeout",
        Again.RESUMES,
    ),
)
