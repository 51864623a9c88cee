"""Causes by which a run ends: the words that give one away, and the two lines that a person sees.

A rule's texts are templates: `{0}`, `{1}` are the groups of its pattern, the other names the fields of `Facts`.
"""

import re
from dataclasses import dataclass
from enum import Enum

_MODEL_PATH = "actor_rollout_ref.model.path"
_ROLLOUT = "actor_rollout_ref.rollout"


class Again(Enum):
    """The worth of the same command after an ending."""

    RESUMES = "resumes"
    """It goes on: the cause has passed."""
    THEN_RESUMES = "then resumes"
    """It goes on once the remedy is done, which changes nothing of the configuration."""
    REPEATS = "repeats"
    """It stops there again: the configuration, the model or the code has to change."""


@dataclass(frozen=True)
class Rule:
    """A cause."""

    name: str
    """Name of the cause, for tests and for the record in the run's folder."""
    pattern: re.Pattern[str]
    """Words of the exception, or of the log, that give the cause away."""
    cause: str
    """Template of the first line."""
    remedy: str
    """Template of the second line, an imperative clause."""
    again: Again


def _rule(name: str, pattern: str, cause: str, remedy: str, again: Again) -> Rule:
    return Rule(name, re.compile(pattern, re.DOTALL), cause, remedy, again)


EPISODES = re.compile(
    r"(no episode of \d+ consecutive batches could be played"
    r"|more than \S+ % of the episodes of \d+ steps in a row could not be played)"
    r"[^\n]*?; the first: (?:step \d+, )?((\w+): [^\n]*)"
)
# the stop reason of the first episode that could not be played -> the remedy
OF_EPISODES: dict[str, tuple[str, Again]] = {
    "generator_error": ("mend the rollout engine or the setting that it refuses", Again.REPEATS),
    "generator_timeout": ("raise env.limits.generate_timeout_s, or lower env.limits.max_turn_tokens", Again.REPEATS),
    "env_timeout": ("raise env.limits.step_timeout_s, or make the environment faster", Again.REPEATS),
    "episode_timeout": ("raise env.limits.episode_timeout_s, or lower the budgets of an episode", Again.REPEATS),
    "prompt_too_long": ("raise data.max_prompt_length, or lower env.train.horizons", Again.REPEATS),
    "chat_error": ("take a model whose chat template can show the task", Again.REPEATS),
}
MEND_THE_ENVIRONMENT = ("mend the environment, or the service that it asks", Again.THEN_RESUMES)

RULES: tuple[Rule, ...] = (
    _rule(
        "shared memory full",
        r"(?:/dev/shm|shared memory)[^\n]*No space left|No space left[^\n]*/dev/shm|insufficient shared memory"
        r"|unable to (?:write to|resize) file </?torch_|object_store_memory[^\n]*exceeds[^\n]*/dev/shm",
        "no space left in shared memory (/dev/shm)",
        "make it larger, such as docker run --shm-size=16g, or end what else uses it",
        Again.THEN_RESUMES,
    ),
    _rule(
        "disk quota",
        r"Disk quota exceeded|\[Errno 122\]",
        "the disk quota of {folder} is used up: {space}",
        "make room or raise the quota",
        Again.THEN_RESUMES,
    ),
    _rule(
        "disk full",
        r"(?:\[Errno 28\] )?No space left on device(?:: '(?P<folder>[^']+)')?|\[Errno 28\]|OutOfDiskError"
        r"|enforce fail at inline_container|PytorchStreamWriter failed writing",
        "no space left on {folder}: {space}",
        "make room, or keep fewer checkpoints",
        Again.THEN_RESUMES,
    ),
    _rule(
        "file size limit",
        r"\[Errno 27\]|File too large",
        "a file in {folder} is larger than this process may write (ulimit -f)",
        "raise the limit",
        Again.THEN_RESUMES,
    ),
    _rule(
        "read-only disk",
        r"\[Errno 30\] Read-only file system(?:: '([^']*)')?",
        "a disk became read-only: {0}",
        "mount it for writing, or look for its fault in dmesg",
        Again.THEN_RESUMES,
    ),
    _rule(
        "memory: Ray",
        r"(?:Task|Worker|actor)[^\n]*killed due to the node running low on memory"
        r"|workers? killed due to memory pressure|ray\.exceptions\.OutOfMemoryError|RayOutOfMemoryError",
        "out of memory: Ray ended a process because the machine was almost full; {memory}",
        f"lower {_ROLLOUT}.max_num_seqs or data.train_batch_size, or end what else uses the memory",
        Again.THEN_RESUMES,
    ),
    _rule(
        "engine: memory of its sampler",
        r"CUDA out of memory occurred when warming up (?:sampler|pooler)[^\n]*?with (\d+) dummy requests",
        "the engine has no GPU memory left to sample {0} sequences at once",
        f"lower {_ROLLOUT}.max_num_seqs or {_ROLLOUT}.gpu_memory_utilization",
        Again.REPEATS,
    ),
    _rule(
        "engine: memory while profiling",
        r"Error in memory profiling\. Initial free memory ([\d.]+) GiB, current free memory ([\d.]+) GiB",
        "while the engine measured its memory, another program gave some of the GPU's back: {0}, then {1} GiB free",
        "start it when no other program uses the GPU",
        Again.THEN_RESUMES,
    ),
    _rule(
        "memory: GPU",
        r"CUDA out of memory\. (Tried to allocate [\d.]+ \w+)"
        r"(?:\. (GPU \d+ has a total capacity of [\d.]+ \w+ of which [\d.]+ \w+ is free))?",
        "out of GPU memory: {0}; {1}",
        "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu (or ppo_micro_batch_size_per_gpu) or "
        f"{_ROLLOUT}.gpu_memory_utilization",
        Again.REPEATS,
    ),
    _rule(
        "memory: GPU, unsized",
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
        r"|CUDA (?:Error|error): out of memory",
        "out of GPU memory",
        "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu (or ppo_micro_batch_size_per_gpu) or "
        f"{_ROLLOUT}.gpu_memory_utilization",
        Again.REPEATS,
    ),
    _rule(
        "memory: host",
        r"DefaultCPUAllocator: (?:can't|not enough)[^\n]*?tried to allocate (\d+) bytes",
        "out of memory: {0} bytes could not be allocated; {memory}",
        "lower the batch or the lengths, or end what else uses the memory",
        Again.THEN_RESUMES,
    ),
    _rule(
        "memory: process",
        r"\[Errno 12\] Cannot allocate memory|\bMemoryError\b|std::bad_alloc",
        "out of memory; {memory}",
        "lower the batch or the lengths, or end what else uses the memory",
        Again.THEN_RESUMES,
    ),
    _rule(
        "engine: cache",
        r"(?:No available memory for the cache blocks|max seq len \(\d+\) is larger than the maximum number of tokens"
        r"|[\d.]+ GiB KV cache is needed)[^\n]*",
        "the engine has no room for its key-value cache: {match}",
        f"raise {_ROLLOUT}.gpu_memory_utilization (on a CPU +hardware.env_vars.VLLM_CPU_KVCACHE_SPACE), or lower "
        f"{_ROLLOUT}.max_model_len",
        Again.REPEATS,
    ),
    _rule(
        "engine: memory at start",
        r"Free memory on device[^\n]*less than desired GPU memory utilization[^\n]*",
        "the engine found less free GPU memory than it was told to use: {match}",
        f"end what else uses the GPU, or lower {_ROLLOUT}.gpu_memory_utilization",
        Again.THEN_RESUMES,
    ),
    _rule(
        "engine: attention on a CPU",
        r"Unsupported CPU attention configuration: [^\n]*?head_dim=(\d+)[^\n]*",
        "the engine cannot run {model} on a CPU: its attention has head_dim={0}",
        "take a model with another head_dim (32, 64, 96, 128 and more are supported)",
        Again.REPEATS,
    ),
    _rule(
        "engine: architecture",
        r"Model architectures \[([^\]]*)\] (?:are not supported|failed to be inspected)",
        "the engine cannot run {model}: vLLM does not support {0}",
        "take a model that vLLM supports",
        Again.REPEATS,
    ),
    _rule(
        "engine: tensor parallel",
        r"Total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)",
        "the engine cannot split {model}: {0} attention heads over {1} devices",
        f"set {_ROLLOUT}.tensor_model_parallel_size to a divisor of {{0}}",
        Again.REPEATS,
    ),
    _rule(
        "engine: context",
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len[^\n]*?[=:] ?(\d+)",
        f"the engine refused {_ROLLOUT}.max_model_len={{0}}: {{model}} was made for {{1}}",
        "lower it, and with it data.max_prompt_length or data.max_response_length",
        Again.REPEATS,
    ),
    _rule(
        "hub: gated",
        r"GatedRepoError|gated repo|401 Client Error[^\n]*huggingface|Access to model [^\n]* is restricted"
        r"|is not a valid model identifier|RepositoryNotFoundError",
        "the hub does not give out {model}: it is gated, private, or there is no such model",
        "accept its terms and log in (huggingface-cli login), or correct the id",
        Again.THEN_RESUMES,
    ),
    _rule(
        "hub: unreachable",
        r"couldn't connect to '?(https?://[^\s']+)'?|LocalEntryNotFoundError|outgoing traffic has been disabled"
        r"|MaxRetryError[^\n]*host='([^']*hugging[^']*)'|OfflineModeIsEnabled|offline mode",
        "the hub ({hub}) cannot be reached for {model}, and the model is not among the downloaded ones",
        f"check the network, or give a folder as {_MODEL_PATH}",
        Again.THEN_RESUMES,
    ),
    _rule(
        "devices",
        r"Total available GPUs (\S+) is less than total desired GPUs (\S+)",
        "Ray has {0} GPUs, and the run asks for {1}",
        "set trainer.n_gpus_per_node and trainer.nnodes to what there is",
        Again.REPEATS,
    ),
    _rule(
        "CUDA",
        r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver version is insufficient"
        r"|Torch not compiled with CUDA enabled",
        "CUDA cannot be used here: {match}",
        "choose hardware=cpu, or see `trm doctor`",
        Again.REPEATS,
    ),
    _rule(
        "NCCL",
        r"(?:NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclRemoteError|NCCL timeout|"
        r"Watchdog caught collective operation timeout)[^\n]*",
        "the devices lost each other: {match}",
        "look at the network and the GPUs (NCCL_DEBUG=INFO tells more)",
        Again.THEN_RESUMES,
    ),
    _rule(
        "weights by TCP",
        r"TransferError: ([^\n]*)",
        "weights did not reach the rollout servers: {0}",
        "look at log.txt for what ended the other side, and at the network between them",
        Again.THEN_RESUMES,
    ),
    _rule(
        "drawn outside",
        r"DrawnOutside: ([^\n]*?); ([^\n]*)",
        "{0}",
        "{1}",
        Again.REPEATS,
    ),
    _rule(
        "tracker: unknown",
        r"AssertionError: (\w+) is not supported",
        "trainer.logger: verl knows no {0}",
        "choose among console, tensorboard, wandb, mlflow, swanlab, file",
        Again.REPEATS,
    ),
    _rule(
        "tracker: key",
        r"(?:wandb[^\n]*)?No API key configured|wandb\.errors\.\w+: api_key not configured",
        "trainer.logger: wandb has no API key",
        "log in (wandb login) or set WANDB_API_KEY, or WANDB_MODE=offline",
        Again.THEN_RESUMES,
    ),
    _rule(
        "Ray: start",
        r"The current node timed out during startup|Failed to start (?:the )?(?:GCS|raylet)|Address already in use"
        r"|Can't find a `?node_ip_address|could not be reached within \d+ seconds",
        "Ray did not start: {match}",
        "end an older Ray (ray stop), and see `trm doctor`",
        Again.THEN_RESUMES,
    ),
    _rule(
        "files",
        r"\[Errno 24\] Too many open files",
        "too many open files for one process",
        "raise the limit: ulimit -n 65536",
        Again.THEN_RESUMES,
    ),
    _rule(
        "threads",
        r"can't start new thread|Resource temporarily unavailable|pthread_create failed",
        "no more threads or processes may be started",
        "raise the limit: ulimit -u, or the container's pids limit",
        Again.THEN_RESUMES,
    ),
    _rule(
        "checkpoint: other devices",
        r"No such file or directory: '([^']*)(?:model|optim|extra_state)_world_size_(\d+)_rank_\d+\.pt'",
        "the checkpoint in {0} was not saved by {1} processes",
        "resume with as many devices as the run began with",
        Again.REPEATS,
    ),
)
