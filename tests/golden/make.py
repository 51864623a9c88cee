"""Write the golden files: `python -m tests.golden.make [presets] [losses] [episodes]`, all of them by default.

The files say what a change that only moves or renames must not change, so write them on the commit before such a
change, never on the one that makes it. A change that means to alter a preset, a number of the loss or what an
environment shows writes the file of its kind in the same commit; the diff is then part of its review: read it.

- `presets.json`: composed configurations; a field is added, or a value changes;
- `losses.json`: the stored batches, and what the policy loss makes of them. The batches are kept: with `--draw` they
  are drawn anew;
- `episodes.json`: solver episodes of each environment; needs the extras of all environments and a sandbox.
"""

import sys

from tests.golden import stored


def make_presets() -> None:
    from tests.golden.presets import all_presets

    stored.write("presets", all_presets())


def make_losses(draw: bool) -> None:
    from tests.golden import loss_batch, losses

    batches = loss_batch.draw() if draw else stored.read("losses")["batches"]
    results = {name: losses.compute(batches, case) for name, case in losses.cases().items()}
    stored.write("losses", {"machine": stored.this_machine(), "batches": batches, **losses.as_table(results)})


def make_episodes() -> None:
    from tests.golden.episodes import all_ids, played

    stored.write("episodes", {env_id: played(env_id) for env_id in all_ids()})


def main(arguments: list[str]) -> None:
    draw = "--draw" in arguments
    wanted = [argument for argument in arguments if not argument.startswith("--")] or ["presets", "losses", "episodes"]
    for kind in wanted:
        {"presets": make_presets, "losses": lambda: make_losses(draw), "episodes": make_episodes}[kind]()
        print(f"wrote {stored.FILES / f'{kind}.json'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
