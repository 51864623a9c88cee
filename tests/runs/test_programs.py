"""A program's output, or the reason why there is none."""

from pathlib import Path

from trm_agent.runs.programs import output_of


def test_a_program_says_something_or_there_is_a_reason(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    assert output_of([str(slow)], limit_s=0.2) == (None, "no answer within 0.2 s")
    assert output_of(["no-such-program"]) == (None, "No such file or directory")
    assert output_of(["/bin/sh", "-c", "echo first >&2; echo last >&2; exit 3"]) == (None, "last")
    assert output_of(["/bin/sh", "-c", "echo told; exit 3"]) == (None, "told")
    assert output_of(["/bin/sh", "-c", "exit 3"]) == (None, "exit status 3")
    assert output_of(["/bin/sh", "-c", "echo out"]) == ("out\n", "")


def test_a_program_reads_nothing_of_the_command_s_input() -> None:
    assert output_of(["/bin/sh", "-c", "cat; echo end"], limit_s=5.0) == ("end\n", "")
