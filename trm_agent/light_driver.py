"""Drive a run on one machine from a process that imports neither torch nor verl, which its workers share.

verl's own `run_ppo` does the same where the command has verl.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import ray
from omegaconf import DictConfig

from trm_agent.fork_server import handle
from trm_agent.fork_server.calls import apart
from trm_agent.fork_server.ray_processes import in_their_own_session, without_cluster_services
from trm_agent.runs.groups import ENGINE_THREADS
from trm_agent.runs.phases import mark

# in which Ray passes on what its workers have said last, as it does at the end of a process
_LAST_LINES_S = 0.5


@ray.remote
class RunTaskRunner:
    """An actor like that of `trm_agent.verl_plugin.driver.runner`, which is imported where it runs."""

    def run(self, config: DictConfig) -> None:
        from trm_agent.verl_plugin.driver.runner import train

        train(config)


def prepared(config: DictConfig) -> Callable[[Callable[[], None]], None]:
    """Check the rules that need verl, and return `run` for the checked configuration.

    Raises:
        ValueError: an unknown policy loss, or a configuration that verl refuses.
    """
    return functools.partial(run, *apart(_checked, config))


def _checked(config: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    from trm_agent.verl_plugin.driver import launch

    return launch.checked(config)


def run(config: DictConfig, ray_init: Mapping[str, Any], ray_started: Callable[[], None]) -> None:
    """Start Ray and train; returns after the last step.

    Args:
        config: a checked configuration.
        ray_init: what verl gives `ray.init`.
        ray_started: called as soon as Ray has started, which takes signals over.
    """
    os.environ[ENGINE_THREADS] = str(config.hardware.engine_threads)
    with ExitStack() as ray_as_we_need_it:
        ray_as_we_need_it.enter_context(in_their_own_session())
        handle.use_for_ray()
        ray_as_we_need_it.enter_context(without_cluster_services(bool(ray_init.get("include_dashboard"))))
        ray_as_we_need_it.callback(handle.tell_ended)
        mark(config.run.dir, "driver")
        ray.init(**ray_init)
        ray_started()
        ray.get(RunTaskRunner.remote().run.remote(config))  # type: ignore[attr-defined]
        if timeline := config.ray_kwargs.get("timeline_json_file"):
            ray.timeline(filename=timeline)
        # before the command loads what draws the curves, which would add to the memory of all its processes
        handle.stop()
        time.sleep(_LAST_LINES_S)
        ray.shutdown()
