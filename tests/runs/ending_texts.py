"""Texts around the messages with which runs end: Ray's envelopes, and the log of an engine."""

RUNNER = "ray::RunTaskRunner.run() (pid=24072, ip=192.0.2.2, actor_id=1a9e, repr=<runner.RunTaskRunner at 0x7fda>)"
REMOTE = f"""Traceback (most recent call last):
  File "/opt/env/lib/python3.11/site-packages/ray/_private/worker.py", line 1053, in get_objects
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError(RuntimeError): \x1b[36m{RUNNER}\x1b[39m
           ^^^^^^^^^^^^^^^^^^^
  File "/src/trm_agent/verl_plugin/driver/runner.py", line 56, in run
    trainer.fit(agent_loops)
"""
DIED = """Traceback (most recent call last):
  File "/opt/env/lib/python3.11/site-packages/ray/_private/worker.py", line 1053, in get_objects
    raise value
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: create_colocated_worker_cls.<locals>.WorkerDict
\tactor_id: 2d7840944c374d8f3efc44c701000000
\tpid: 24242
\tnamespace: 53a1
\tip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly due
to SIGSEGV or another unexpected error.
"""
ENGINE = f"""{REMOTE}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""


def remote(raised: str) -> str:
    """An exception of another process as Ray hands it on."""
    return f"""{REMOTE}ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::WorkerDict.do()\x1b[39m (pid=24242)
  File "/opt/env/lib/python3.11/site-packages/verl/workers/engine_workers.py", line 12, in do
    work()
{raised}
"""


def engine_log(raised: str) -> str:
    """The log of a vLLM engine that did not start."""
    before = "\x1b[36m(EngineCore_DP0 pid=77)\x1b[0m ERROR 11-28 09:31:47 [core.py:396] "
    lines = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        '  File "/opt/env/lib/python3.12/site-packages/vllm/v1/engine/core.py", line 387, in run_engine_core',
        "    engine_core = EngineCoreProc(*args, **kwargs)",
        raised,
    ]
    driver = "(RunTaskRunner pid=5) RuntimeError: Engine core initialization failed. See root cause above."
    return "\n".join([*(before + line for line in lines), driver])
