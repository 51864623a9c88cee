"""The socket by which weights reach the engine on their machine, of one run alone.

verl names it after Ray's job. Each Ray cluster counts its jobs from one, so that two runs on a machine, each with a
cluster of its own, would share one socket, and an engine could load the other run's weights. So the address of Ray's
head, which no other cluster has at the same time, becomes a part of the name.
"""

import os
import re

import ray

JOB_VARIABLE = "VERL_RAY_JOB_ID"
"""The environment variable in which verl tells the engine's process the job."""


def own_handle(handle: str) -> str:
    """Return the name of verl's socket with the run in the place of Ray's job.

    Raises:
        RuntimeError: it does not hold the job, so that verl is not the one that this was written for.
    """
    job = f"-{ray.get_runtime_context().get_job_id()}-"
    if job not in handle:
        raise RuntimeError(f"verl's socket for weights, {handle!r}, lacks Ray's job {job!r}; install verl==0.9.1")
    return handle.replace(job, f"-{run_name()}-", 1)


def run_name() -> str:
    """Return Ray's job and the address of the cluster's head, fit for a file's name."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{re.sub(r'[^0-9A-Za-z]+', '_', context.gcs_address)}"


def tell_engine() -> None:
    """Let the engines of this process, the server's, connect to the socket of this run."""
    os.environ[JOB_VARIABLE] = run_name()
