"""Verifiers of answers (exact rationals first, then math-verify in killable processes) and of programs."""

from trm_envs.scoring.exact import Quantity, compare_exact, parse_quantity
from trm_envs.scoring.extract import Extraction, extract_answer, plain_answer
from trm_envs.scoring.outputs import same_output
from trm_envs.scoring.pool import WorkerCrashed, WorkerLost, WorkerPool, WorkerTimeout
from trm_envs.scoring.programs import Case, CaseOutcome, CaseVerdict, run_cases
from trm_envs.scoring.truths import SCORER_VERSION, check_truths
from trm_envs.scoring.verify import Outcome, Verdict, close_pool, score_math

__all__ = [
    "SCORER_VERSION",
    "Case",
    "CaseOutcome",
    "CaseVerdict",
    "Extraction",
    "Outcome",
    "Quantity",
    "Verdict",
    "WorkerCrashed",
    "WorkerLost",
    "WorkerPool",
    "WorkerTimeout",
    "check_truths",
    "close_pool",
    "compare_exact",
    "extract_answer",
    "parse_quantity",
    "plain_answer",
    "run_cases",
    "same_output",
    "score_math",
]
