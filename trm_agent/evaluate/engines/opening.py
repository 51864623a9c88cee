"""The engine of one checkpoint, which plays an evaluation's episodes with tokens that a seed decides."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from trm_agent.episode import ChatSettings, Generator
from trm_agent.evaluate.checkpoints.model_files import max_positions
from trm_agent.evaluate.checkpoints.source import Checkpoint
from trm_agent.evaluate.engines.sampling import Sampling


class Engine(Protocol):
    """A model that plays many episodes at once."""

    tokenizer: Any
    """A fast Hugging Face tokenizer with its chat template."""
    at_once: int | None
    """Episodes whose keys and values it can keep from turn to turn; None where it sets no limit."""

    def generator(self, seed: int) -> Generator:
        """Return the player of one episode.

        Args:
            seed: seed of the episode; with that of the sampling it decides every token. Turns draw from seeds of their
            own.
        """
        ...


@asynccontextmanager
async def open_engine(
    checkpoint: Checkpoint,
    sampling: Sampling,
    *,
    max_model_len: int,
    max_num_seqs: int,
    log_file: Path | None = None,
    dtype: str | None = None,
    gpu_memory_utilization: float = 0.85,
    tensor_parallel_size: int = 1,
    request_timeout_s: float = 600.0,
    chat: ChatSettings | None = None,
) -> AsyncIterator[Engine]:
    """Start the engine of a checkpoint and end it, whatever happens in between.

    Args:
        checkpoint: a prepared checkpoint.
        sampling: settings of the sampling.
        max_model_len: the longest context, prompt and response, in tokens.
        max_num_seqs: the largest number of turns that are generated at once.
        log_file: the file to which the engine's output is appended; None for the screen.
        dtype: dtype of the weights; None for float32 without a GPU and the model's own with one.
        gpu_memory_utilization: share of a GPU's memory.
        tensor_parallel_size: number of GPUs that hold one model.
        request_timeout_s: seconds for one turn of an endpoint.
        chat: settings of the checkpoint's chat template; None for the default.

    Raises:
        ValueError: the model is made for shorter contexts, or the tokenizer cannot be used.
    """
    if checkpoint.kind == "endpoint":
        from trm_agent.evaluate.engines.endpoint import EndpointEngine

        assert checkpoint.url is not None
        assert checkpoint.model is not None
        assert checkpoint.tokenizer is not None
        endpoint = EndpointEngine(
            checkpoint.url,
            checkpoint.model,
            load_tokenizer(checkpoint.tokenizer),
            sampling,
            max_num_requests=max_num_seqs,
            request_timeout_s=request_timeout_s,
            chat=chat,
        )
        async with endpoint:
            yield endpoint
        return
    folder = checkpoint.folder
    assert folder is not None, f"{checkpoint.label} is not prepared"
    longest = max_positions(folder)
    if longest is not None and max_model_len > longest:
        raise ValueError(
            f"{checkpoint.label}: the limits allow contexts of {max_model_len} tokens, the model is made for {longest} "
            "(max_position_embeddings of its config.json); lower limits.max_response_tokens or the horizon"
        )
    from trm_agent.evaluate.engines.vllm_engine import open_vllm

    tokenizer = load_tokenizer(checkpoint.tokenizer or folder)
    settings = {
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "dtype": dtype,
        "gpu_memory_utilization": gpu_memory_utilization,
        "tensor_parallel_size": tensor_parallel_size,
    }
    async with open_vllm(folder, tokenizer, sampling, settings, log_file, chat) as engine:
        yield engine


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        ValueError: the folder does not hold one that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
