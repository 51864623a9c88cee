"""Support for verl and vLLM without an accelerator: a platform, and patches guarded by version."""


def install() -> None:
    """Register the CPU platform and apply the patches of verl.

    Runs while `import verl` is in progress, so it must not import modules of verl that are not loaded yet.
    """
    from trm_agent.verl_plugin.cpu import patches, platform

    patches.apply_verl_patches()
    platform.register()
