"""The code inside the sandbox: standard library only, also under an older Python than the host's."""
