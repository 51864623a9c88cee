"""Make the picture on top of the README: the token viewer with a sequence that the trust region rejected.

    python scripts/readme_picture.py                      trains some steps of math_nano_mismatch first (minutes)
    python scripts/readme_picture.py runs/math_nano_mismatch-seed0-001

The README's caption tells the numbers of its picture: a new picture needs a new caption. Needs playwright and a
Chromium. A run's rollouts must have been dumped: with policy_loss.dump.every=N.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from browser import launched

from trm_agent.report.build import build_report

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "token_viewer.png"
STEPS = 12
# points of the page, and pixels of the picture for each
WIDTH, HEIGHT, SCALE = 1180, 760, 1.36
COLOURS = 256
SETTLING_MS = 500
MOST_VIOLATIONS, FITTING_TOKENS = 2, (80, 130)


def train(root: Path) -> Path:
    """Train until the second update on a batch is off-policy, and return the run's folder."""
    run = root / "math_nano_mismatch"
    fields = {
        "run.dir": run,
        "trainer.total_training_steps": STEPS,
        "actor_rollout_ref.actor.policy_loss.dump.every": 1,
    }
    overrides = ["experiment=math_nano_mismatch", *(f"{name}={value}" for name, value in fields.items())]
    subprocess.run([sys.executable, "-m", "trm_agent.train", *overrides], check=True)
    return run


def choose(episodes: dict[str, list[Any]]) -> int:
    """Return the number, in the viewer's list, of the rejected sequence that is the easiest to read.

    That is short, with one or two violating tokens, of which one is far outside.

    Raises:
        ValueError: no sequence was rejected for a token.
    """
    numbers = range(len(episodes["id"]))
    found = [i for i in numbers if episodes["accepted"][i] is False and episodes["violations"][i]]
    if not found:
        raise ValueError("no rejected sequence has a token above max_token_kl; train more steps")

    def effort(i: int) -> tuple[bool, bool, float]:
        is_short = FITTING_TOKENS[0] <= episodes["tokens"][i] <= FITTING_TOKENS[1]
        return not is_short, episodes["violations"][i] > MOST_VIOLATIONS, -episodes["worst"][i]

    return min(found, key=effort)


def photograph(page_file: Path, picture: Path) -> str:
    """Open the report in a real browser as a reader would, and write what it shows; return the sequence's name."""
    from PIL import Image

    with launched() as browser:
        page = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        ).new_page()
        page.goto(page_file.as_uri())
        data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
        number = choose(data["episodes"])
        name = data["episodes"]["id"][number]
        # where a reader is stands in the page's address, and is read when the page opens
        place = urlencode({"view": "episodes", "flags": "rejected", "e": f"{data['runs'][0]['label']} {name}"})
        page.goto("about:blank")
        page.goto(f"{page_file.as_uri()}#{place}")
        page.wait_for_function("name => document.querySelector('.episode-head h2')?.textContent === name", arg=name)
        page.focus(".pane")
        # to the first token that left the trust region
        page.keyboard.press("n")
        page.wait_for_selector(".t.violates:focus")
        page.wait_for_selector("#tip", state="visible")
        page.wait_for_timeout(SETTLING_MS)
        page.screenshot(path=picture)
    whole = Image.open(picture).convert("RGB")
    # a median cut would mix the legend's colours, which are small
    whole.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(picture, optimize=True)
    return name


def main() -> None:
    """Train or take a run, report on it, open a rejected sequence, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run with dumped rollouts (default: train one)")
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="PNG", help=f"default: {PICTURE.name} in docs/img")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or train(Path(scratch))
        report = build_report([run], Path(scratch) / "report.html")
        name = photograph(report.path, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB, {name}")


if __name__ == "__main__":
    main()
