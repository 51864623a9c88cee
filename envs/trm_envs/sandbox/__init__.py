"""Run untrusted programs: the interface, its backends, and the sandbox that a process shares."""

from trm_envs.sandbox.interface import (
    LANGUAGES,
    Limits,
    Result,
    Runner,
    Sandbox,
    SandboxClosed,
    SandboxUnavailable,
    Status,
)
from trm_envs.sandbox.local.sandbox import LocalSandbox, LocalSession
from trm_envs.sandbox.shared import close_shared, shared_sandbox
from trm_envs.sandbox.unsafe.sandbox import UnsafeSandbox, UnsafeSession

__all__ = [
    "LANGUAGES",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "Result",
    "Runner",
    "Sandbox",
    "SandboxClosed",
    "SandboxUnavailable",
    "Status",
    "UnsafeSandbox",
    "UnsafeSession",
    "close_shared",
    "shared_sandbox",
]
