"""Run untrusted programs: the interface and the local backend."""

from trm_envs.sandbox.interface import LANGUAGES, Limits, Result, Runner, Sandbox, SandboxUnavailable, Status
from trm_envs.sandbox.local import LocalSandbox, LocalSession

__all__ = [
    "LANGUAGES",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "Result",
    "Runner",
    "Sandbox",
    "SandboxUnavailable",
    "Status",
]
