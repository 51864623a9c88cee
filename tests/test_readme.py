"""The README promises nothing that is not there: its listing runs, its commands parse, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import torch

from tests.report.browser import NEEDS_BROWSER
from tests.report.synthetic import episode_row, write_run, write_tokenizer
from trm_agent.cli import COMMANDS, _parser
from trm_envs import ToolEnv

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONF = ROOT / "trm_agent" / "conf"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Those of the listings and those of the text that begin with a program of ours."""
    listed = [line for block in blocks("bash") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    quoted = [text for text in re.findall(r"`([^`]+)`", prose) if re.match(r"(trm|bash|python -m) \S", text)]
    return [words for line in [*listed, *quoted] if (words := shlex.split(line, comments=True))]


class KeyChain(ToolEnv):
    """Stands for the reader's own."""


def test_the_listing_masks_a_batch_by_hand():
    # sequence 0: one token with log ratio 0.4, k2 = 0.08 above 0.05; sequence 1: 0.2, k2 = 0.02 below
    rollout = torch.full((2, 3), -1.0)
    log_probs = (rollout + torch.tensor([[0.0, 0.4, 0.0], [0.0, 0.2, 0.0]])).requires_grad_()
    names = {
        "KeyChain": KeyChain,
        "log_probs": log_probs,
        "rollout_log_probs": rollout,
        "response_mask": torch.ones(2, 3, dtype=torch.bool),
        "advantages": torch.ones(2, 3),
    }
    (listing,) = blocks("python")
    assert len([line for line in listing.splitlines() if line]) <= 10
    try:
        exec(listing, names)
        assert gymnasium.spec("mine/KeyChain-v0").entry_point is KeyChain
    finally:
        gymnasium.registry.pop("mine/KeyChain-v0", None)
    assert names["mask"].accepted.tolist() == [False, True]
    # -A rho / 6 on the kept sequence's three tokens, and nothing on the rejected one's
    expected = -torch.tensor([[0.0, 0.0, 0.0], [1.0, torch.tensor(0.2).exp(), 1.0]]) / 6
    torch.testing.assert_close(log_probs.grad, expected)


def test_every_command_parses():
    found = commands()
    assert len(found) > 9
    for words in found:
        if words[0] == "source":
            assert words[1:] == [".venv/bin/activate"], "scripts/setup.sh makes that one"
        elif words[0] == "trm" and len(words) == 2:
            assert words[1] in COMMANDS, words
        elif words[0] == "trm":
            try:
                _parser(words[1:]).parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"README.md: {shlex.join(words)}")
        elif words[0] == "bash" or words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[:3] == ["python", "-m", "trm_agent.train"], words
            assert all("=" in word for word in words[3:]), words


@pytest.mark.parametrize("group", ["env", "experiment", "policy_loss"])
def test_every_choice_of_a_group_is_there(group):
    named = set(re.findall(rf"\b{group}=(\w+)", README))
    assert named
    assert named <= {file.stem for file in (CONF / group).glob("*.yaml")}


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG, pixels: bytes 16 to 24 of its header."""
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_the_picture_is_large_enough_to_read_and_small_enough_to_load():
    picture = ROOT / "docs" / "img" / "token_viewer.png"
    width, height = size_of(picture)
    assert 1500 < width < 1700
    assert 900 < height < 1200
    assert picture.stat().st_size < 300_000


@pytest.mark.slow
@NEEDS_BROWSER
def test_the_pictures_script_photographs_a_rejected_sequence(tmp_path):
    # log ratio 0.9: k2 = 0.405, above the threshold 0.05
    outside = {"log_ratios": [0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "accepted": False}
    run = write_run(tmp_path / "run", [episode_row(), episode_row(seed=8, **outside)])
    write_tokenizer(run / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(ROOT / "scripts" / "readme_picture.py"), str(run), "--out", str(picture)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert "step 1 · update 0 · row 1" in told
    assert size_of(picture)[0] > 1500
