"""The sections of the report, and all of them at once within a time limit each."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Mapping

from trm_agent.doctor import machine, software
from trm_agent.doctor.finding import Finding

Probe = Callable[[], list[Finding]]
# title -> a function without arguments that returns findings; the order is that of the report
SECTIONS: dict[str, Probe] = {
    "python": software.python,
    "packages": software.packages,
    "torch": software.torch,
    "gpus": machine.gpus,
    "vllm": software.vllm,
    "verl": software.verl,
    "ray": software.ray,
    "sandbox": machine.sandbox,
    "processor": machine.processor,
    "disk": machine.disk,
    "ports": machine.ports,
    "browser": software.browser,
}
LIMIT_S = 20.0
WIDTH = 118


def examine(sections: Mapping[str, Probe] = SECTIONS, limit_s: float = LIMIT_S) -> dict[str, list[Finding]]:
    """Run all probes side by side; one that fails or takes too long is a finding and holds up no other."""
    found: dict[str, list[Finding]] = {}

    def probe(title: str) -> None:
        try:
            findings = sections[title]()
        except Exception as error:
            told = f"the probe failed: {type(error).__name__}: {error}"
            findings = [Finding("warning", told, "report it, with the output of trm doctor --json")]
        found[title] = findings

    # daemons: a probe that hangs in the kernel must not keep the command from ending
    threads = {title: threading.Thread(target=probe, args=(title,), daemon=True) for title in sections}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    late = [Finding("warning", f"no answer within {limit_s:g} s", "try again; look for a file system that hangs")]
    return {title: found.get(title, late) for title in sections}


def can_train(findings: Mapping[str, list[Finding]]) -> bool:
    """Return whether the main job can run."""
    return all(finding.state != "missing" for each in findings.values() for finding in each)


def as_text(findings: Mapping[str, list[Finding]]) -> str:
    """Render the report for people: one line per finding, with its remedy below."""
    width = max(map(len, findings))
    lines = []
    for title, each in findings.items():
        for finding in each:
            start = f"{finding.state:<8} {title:<{width}}  "
            lines += textwrap.wrap(finding.told, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
            if finding.remedy:
                lines.append(f"{'':<{len(start)}}-> {finding.remedy}")
            title = ""
    verdict = "the main job can run here: bash scripts/run_trm_math.sh"
    if not can_train(findings):
        missing = [title for title, each in findings.items() if any(finding.state == "missing" for finding in each)]
        verdict = f"the main job cannot run here; missing: {', '.join(missing)}"
    return "\n".join([*lines, "", verdict])
