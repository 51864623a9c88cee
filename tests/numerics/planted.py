"""`trm numerics` with a fault in its trainer: positions from 512 on are one too late.

From the repository's root: `python -m tests.numerics.planted numerics ...`, with the arguments of the command.
"""

import sys

DEPTH = 512


def shift(kind: type) -> None:
    """Let the rotary embedding of a kind of model turn by positions that are shifted from `DEPTH` on."""
    plain = kind.forward

    def shifted(self, x, position_ids, *args, **kwargs):
        return plain(self, x, position_ids + (position_ids >= DEPTH), *args, **kwargs)

    kind.forward = shifted


def main() -> None:
    """Run the command, or be the process of its trainer."""
    if sys.argv[1:2] == ["numerics"]:
        from trm_agent import cli
        from trm_agent.numerics import training

        training.MODULE = "tests.numerics.planted"
        sys.exit(cli.main(sys.argv[1:]))
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    from trm_agent.verl_plugin.actor import alone

    for kind in (LlamaRotaryEmbedding, Qwen3RotaryEmbedding):
        shift(kind)
    alone.main()


if __name__ == "__main__":
    main()
