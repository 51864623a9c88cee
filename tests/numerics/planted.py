"""`trm numerics` with a fault in its trainer and in its second engine: positions from a depth on are one too late.

From the repository's root: `python -m tests.numerics.planted numerics ...`, with the arguments of the command. The
depth is 512 tokens, or what the variable PLANTED_DEPTH says.
"""

import os
import sys

DEPTH = int(os.environ.get("PLANTED_DEPTH", "512"))


def shift(kind: type) -> None:
    """Let a rotary embedding of transformers turn by positions that are shifted from `DEPTH` on."""
    plain = kind.forward

    def shifted(self, x, position_ids, *args, **kwargs):
        return plain(self, x, position_ids + (position_ids >= DEPTH), *args, **kwargs)

    kind.forward = shifted


def shift_second_engine() -> None:
    """Let vLLM's rotary embedding do so when a second engine begins to read: the first ones are done by then."""
    from trm_agent.numerics import measuring

    plain_read = measuring.read_all

    async def read_all(*arguments):
        from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

        # in the class of all: an embedding chooses its kernel when it is made, and engines share embeddings
        plain = super(RotaryEmbedding, RotaryEmbedding).forward

        def shifted(self, positions, *others):
            return plain(self, positions + (positions >= DEPTH), *others)

        RotaryEmbedding.forward = shifted
        return await plain_read(*arguments)

    measuring.read_all = read_all


def main() -> None:
    """Run the command, or be the process of its trainer."""
    if sys.argv[1:2] == ["numerics"]:
        from trm_agent import cli
        from trm_agent.numerics import training

        training.MODULE = "tests.numerics.planted"
        shift_second_engine()
        sys.exit(cli.main(sys.argv[1:]))
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    from trm_agent.verl_plugin.actor import alone

    for kind in (LlamaRotaryEmbedding, Qwen3RotaryEmbedding):
        shift(kind)
    alone.main()


if __name__ == "__main__":
    main()
