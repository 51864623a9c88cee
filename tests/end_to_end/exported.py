"""An exported model beside the engine that serves the checkpoint: greedy decoding takes the same tokens."""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from trm_agent.cli import main

TASKS = ("--env", "chain_math", "--horizons", "2", "4", "--tasks", "8", "--temperature", "0")


def assert_greedy_outputs_are_the_engines(checkpoint: str, folder: Path) -> None:
    """Export a checkpoint, play it greedily in `trm eval`, and hold the export's own choice against every token."""
    from transformers import AutoModelForCausalLM

    assert main(["export", checkpoint, str(folder / "model")]) == 0
    assert main(["eval", checkpoint, *TASKS, "--out", str(folder / "eval")]) == 0
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    num_tokens = 0
    for file in sorted((folder / "eval" / "episodes").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            prompt, response, mask = row["prompt_ids"], row["response_ids"], row["response_mask"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response])).logits[0]
            best = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
            sampled = [token for token, ours in zip(response, mask, strict=True) if ours]
            assert [token for token, ours in zip(best, mask, strict=True) if ours] == sampled
            num_tokens += len(sampled)
    # eight episodes of at least two turns
    assert num_tokens > 100
