"""The embedded sandbox: isolated processes on this machine."""
