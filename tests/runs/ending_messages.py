"""Messages with which runs ended, as torch, Ray, vLLM, verl and the hub wrote them, shortened."""

from tests.runs.ending_messages_gpu import GPU_CASES
from tests.runs.ending_messages_hung import HUNG_CASES
from tests.runs.ending_texts import DIED, ENGINE, engine_log, remote
from trm_agent.runs.endings.rules import Again

NONE_PLAYED = (
    "RuntimeError: no episode of 3 consecutive batches could be played: the environment or the rollout server is "
)
CASES = [
    *GPU_CASES,
    *HUNG_CASES,
    (
        "disk full",
        remote("RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 3241344 vs 3241232"),
        "",
        "no space left on runs/mine: 13.2 MiB needed for a checkpoint, 0.1 MiB free",
        Again.THEN_RESUMES,
    ),
    ("disk full", "OSError: [Errno 28] No space left on device", "", "no space left on runs/mine", Again.THEN_RESUMES),
    (
        "disk full",
        "OSError: [Errno 28] No space left on device: '/scratch/tmp/x'",
        "",
        "no space left on /scratch/tmp/x",
        Again.THEN_RESUMES,
    ),
    ("disk quota", "OSError: [Errno 122] Disk quota exceeded", "", "disk quota of runs/mine", Again.THEN_RESUMES),
    (
        "shared memory full",
        "RuntimeError: unable to write to file </torch_1234_5_0>: No space left on device (28)",
        "",
        "shared memory (/dev/shm)",
        Again.THEN_RESUMES,
    ),
    ("read-only disk", "OSError: [Errno 30] Read-only file system: '/a/b'", "", "/a/b", Again.THEN_RESUMES),
    ("death", DIED, "", "the process WorkerDict ended without a word; the machine has 23.4 GiB", Again.RESUMES),
    (
        "signal",
        DIED,
        "fork server: worker 24242 was killed by signal 9 (SIGKILL)",
        "WorkerDict was killed by signal 9 (SIGKILL), as the kernel does when memory is used up",
        Again.RESUMES,
    ),
    (
        "signal",
        DIED,
        "fork server: worker 24242 was killed by signal 11 (SIGSEGV)",
        "WorkerDict was killed by signal 11 (SIGSEGV); ",
        Again.RESUMES,
    ),
    ("crash", DIED, "(WorkerDict pid=24242) *** SIGABRT received at time=1 on cpu 0 ***", "(SIGABRT)", Again.RESUMES),
    (
        "memory: Ray",
        remote(
            "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\nMemory on the "
            "node (IP: 192.0.2.2) was 23.1GB / 23.4GB (0.98), which exceeds the memory usage threshold of 0.95."
        ),
        "",
        "out of memory: Ray ended a process",
        Again.THEN_RESUMES,
    ),
    (
        "memory: GPU",
        remote(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of "
            "79.11 GiB of which 1.20 GiB is free. Including non-PyTorch memory, this process has 77.90 GiB in use."
        ),
        "",
        "out of GPU memory: Tried to allocate 2.32 GiB; GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is",
        Again.REPEATS,
    ),
    (
        "memory: host",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 40000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "",
        "40000000000000 bytes could not be allocated; the machine has 23.4 GiB",
        Again.THEN_RESUMES,
    ),
    (
        "engine: attention on a CPU",
        ENGINE,
        engine_log("ValueError: Unsupported CPU attention configuration: head_dim=16 block_size=128"),
        "the engine cannot run org/some-7b on a CPU: its attention has head_dim=16",
        Again.REPEATS,
    ),
    (
        "engine: attention on a CPU",
        remote(
            f"{NONE_PLAYED}broken; the first: generator_error: turn 1: Unsupported CPU attention configuration: "
            "head_dim=16"
        ),
        "",
        "head_dim=16",
        Again.REPEATS,
    ),
    (
        "engine: cache",
        ENGINE,
        engine_log(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine"
        ),
        "the engine has no room for its key-value cache: No available memory for the cache blocks",
        Again.REPEATS,
    ),
    (
        "engine: memory at start",
        ENGINE,
        engine_log(
            "ValueError: Free memory on device cuda:0 (3.1/79.11 GiB) on startup is less than desired GPU memory "
            "utilization (0.7, 55.38 GiB). Decrease GPU memory utilization or reduce GPU memory used by others."
        ),
        "Free memory on device cuda:0 (3.1/79.11 GiB)",
        Again.THEN_RESUMES,
    ),
    (
        "engine: architecture",
        ENGINE,
        engine_log("ValueError: Model architectures ['OddForCausalLM'] are not supported for now. Supported: [...]"),
        "the engine cannot run org/some-7b: vLLM does not support 'OddForCausalLM'",
        Again.REPEATS,
    ),
    (
        "engine: tensor parallel",
        remote("ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4)."),
        "",
        "14 attention heads over 4 devices",
        Again.REPEATS,
    ),
    (
        "engine: context",
        remote(
            "ValueError: User-specified max_model_len (65536) is greater than the derived max_model_len "
            "(max_position_embeddings=32768 or model_max_length=None in model's config.json)."
        ),
        "",
        "max_model_len=65536: org/some-7b was made for 32768",
        Again.REPEATS,
    ),
    (
        "unknown",
        ENGINE,
        engine_log("KeyError: 'a cause that no rule has'"),
        "KeyError: 'a cause that no rule has' (/opt/env/lib/python3.12/site-packages/vllm/v1/engine/core.py:387",
        Again.THEN_RESUMES,
    ),
    (
        "hub: unreachable",
        remote(
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
            "cached files.\nCheck your internet connection or see how to run the library in offline mode"
        ),
        "",
        "the hub (https://huggingface.co) cannot be reached for org/some-7b",
        Again.THEN_RESUMES,
    ),
    (
        "hub: unreachable",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled.",
        "",
        "org/some-7b",
        Again.THEN_RESUMES,
    ),
    (
        "hub: gated",
        remote(
            "OSError: You are trying to access a gated repo.\nMake sure to have access to it. 401 Client Error. Cannot "
            "access gated repo for url https://huggingface.co/org/some-7b/resolve/main/config.json."
        ),
        "",
        "the hub does not give out org/some-7b",
        Again.THEN_RESUMES,
    ),
    (
        "devices",
        remote("ValueError: Total available GPUs 0 is less than total desired GPUs 8"),
        "",
        "Ray has 0 GPUs, and the run asks for 8",
        Again.REPEATS,
    ),
    ("CUDA", "AssertionError: Torch not compiled with CUDA enabled", "", "CUDA cannot be used here", Again.REPEATS),
    (
        "tracker: unknown",
        remote("AssertionError: tensorbord is not supported"),
        "",
        "knows no tensorbord",
        Again.REPEATS,
    ),
    (
        "tracker: key",
        remote("wandb.errors.errors.UsageError: No API key configured. Use `wandb login` to log in."),
        "",
        "wandb has no API key",
        Again.THEN_RESUMES,
    ),
    ("files", "OSError: [Errno 24] Too many open files: '/dev/null'", "", "too many open files", Again.THEN_RESUMES),
    ("threads", remote("RuntimeError: can't start new thread"), "", "no more threads", Again.THEN_RESUMES),
    (
        "episodes: env_error",
        remote(
            f"{NONE_PLAYED}broken; the first: env_error: env.reset failed: KeyError: 'rows' (at /home/me/my_env.py:31 "
            "in reset)"
        ),
        "",
        "the first: env_error: env.reset failed: KeyError: 'rows' (at /home/me/my_env.py:31 in reset)",
        Again.THEN_RESUMES,
    ),
    (
        "episodes: env_error",
        remote(
            "trm_agent.verl_plugin.driver.infrastructure_share.TooManyFailures: more than 20 % of the episodes of 3 "
            "steps in a row could not be played (run.max_infrastructure_share, run.max_infrastructure_steps); "
            "the first: step 7, env_error: turn 2: env.step failed: InfrastructureError: the server of exercises is "
            "gone (at a.py:3)"
        ),
        "",
        "the first: env_error: turn 2: env.step failed: InfrastructureError: the server of exercises is gone",
        Again.THEN_RESUMES,
    ),
    (
        "signal",
        remote(
            f"{NONE_PLAYED}broken; the first: generator_error: turn 3: The actor died unexpectedly before finishing "
            "this task. class_name: RecordingServer actor_id: 2d78 pid: 24323 ip: 192.0.2.2 The actor is dead because"
        ),
        "(raylet) gone\nfork server: worker 24323 was killed by signal 9 (SIGKILL)",
        "RecordingServer was killed by signal 9 (SIGKILL)",
        Again.RESUMES,
    ),
    (
        "signal",
        "the rollout server at 192.0.2.2:8000 has ended, and its episodes with it: The actor died unexpectedly before "
        "finishing this task. class_name: RecordingServer actor_id: 2d78 pid: 24323 ip: 192.0.2.2 The actor is dead\n"
        + DIED,
        "fork server: worker 24323 was killed by signal 9 (SIGKILL)",
        "RecordingServer was killed by signal 9 (SIGKILL)",
        Again.RESUMES,
    ),
    (
        "signal",
        "the agent-loop worker 3 has ended, and its episodes with it: The actor died unexpectedly before finishing "
        "this task. class_name: EpisodesWorker actor_id: 2d78 pid: 24323 ip: 192.0.2.2 The actor is dead\n" + DIED,
        "fork server: worker 24323 was killed by signal 9 (SIGKILL)",
        "EpisodesWorker was killed by signal 9 (SIGKILL)",
        Again.RESUMES,
    ),
    (
        "death",
        remote(
            f"{NONE_PLAYED}broken; the first: generator_error: turn 3: The actor died unexpectedly before finishing"
        ),
        "",
        "ended without a word",
        Again.RESUMES,
    ),
    (
        "episodes: chat_error",
        remote(f"{NONE_PLAYED}broken; the first: chat_error: turn 0: TemplateError: System role not supported"),
        "",
        "System role not supported",
        Again.REPEATS,
    ),
    (
        "checkpoint: other devices",
        remote("FileNotFoundError: [Errno 2] No such file or directory: '/r/actor/model_world_size_8_rank_0.pt'"),
        "",
        "the checkpoint in /r/actor/ was not saved by 8 processes",
        Again.REPEATS,
    ),
    (
        "NCCL",
        remote("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited"),
        "",
        "the devices lost each other: NCCL error in",
        Again.THEN_RESUMES,
    ),
    (
        "drawn outside",
        remote("trm_agent.verl_plugin.rollout.failed.DrawnOutside: request 0a: x seed 7: turn 2 drew token 5; let it"),
        "",
        "request 0a: x seed 7: turn 2 drew token 5",
        Again.REPEATS,
    ),
    (
        "weights by TCP",
        remote("trm_agent.verl_plugin.transfer.tcp.TransferError: the trainer at 10.0.0.2:7 is gone, in a header"),
        "",
        "weights did not reach the rollout servers: the trainer at 10.0.0.2:7 is gone, in a header",
        Again.THEN_RESUMES,
    ),
]
