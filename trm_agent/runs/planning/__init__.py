"""The machine and the run that fits it: devices, shapes of models, a written memory model, and what it decides."""
