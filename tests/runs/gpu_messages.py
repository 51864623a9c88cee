"""Messages of a GPU without memory, and what is said of each: the rows of `ending_messages.py` on it."""

from tests.runs.ending_texts import ENGINE, engine_log
from trm_agent.runs.endings.rules import Again

GPU_CASES = [
    (
        "engine: cache",
        ENGINE,
        engine_log(
            "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.20 GiB). Based on the available memory, the "
            "estimated maximum model length is 11216. "
        ),
        "no room for its key-value cache: 4.38 GiB KV cache is needed, which is larger than the available KV cache",
        Again.REPEATS,
    ),
    (
        "engine: cache",
        ENGINE,
        engine_log(
            "ValueError: The model's max seq len (40960) is larger than the maximum number of tokens that can be "
            "stored in KV cache (11216). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`"
        ),
        "max seq len (40960) is larger than the maximum number of tokens that can be stored in KV cache (11216)",
        Again.REPEATS,
    ),
    (
        "engine: memory of its sampler",
        ENGINE,
        engine_log(
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try "
            "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
        ),
        "the engine has no GPU memory left to sample 256 sequences at once",
        Again.REPEATS,
    ),
    (
        "engine: memory while profiling",
        ENGINE,
        engine_log(
            "AssertionError: Error in memory profiling. Initial free memory 40.10 GiB, current free memory 61.20 GiB. "
            "This happens when other processes sharing the same container release GPU memory while vLLM is profiling"
        ),
        "another program gave some of the GPU's back: 40.10, then 61.20 GiB free",
        Again.THEN_RESUMES,
    ),
    (
        "memory: GPU, unsized",
        "RuntimeError: CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62",
        "",
        "out of GPU memory",
        Again.REPEATS,
    ),
]
