"""Entry point of the group `verl.plugins`: runs in every process that imports verl.

On a machine with an accelerator it does nothing. With `VERL_PLATFORM=cpu` it registers the CPU platform and applies the
guarded patches of `cpu/`. verl logs a plugin's `Exception` at debug level and goes on; a run without its platform would
then fail much later and far from the cause, so a failure here is raised as `SystemExit`, which verl lets through.
"""

import os

CPU_PLATFORM = "cpu"
LOADED = False


def _register() -> None:
    global LOADED
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == CPU_PLATFORM:
        from trm_agent.verl_plugin import cpu

        cpu.install()
    LOADED = True


try:
    _register()
except Exception as error:
    raise SystemExit(f"trm_agent: the verl plugin could not be loaded: {type(error).__name__}: {error}") from error
