"""Start Ray's workers as forks of one process that has already imported the heavy packages.

A run on one machine starts about ten Python processes, and each spends 4 to 12 s of CPU on the same imports (torch,
transformers, vLLM). `server` pays for them once; `client` takes the place of Ray's worker set-up script and asks the
server for a fork; `handle` is the driver's part. Standard library only, because the client must start in
milliseconds.
"""
