"""Settings of the whole suite: libyaml, where it was built, reads yaml in half the time and with the same result."""

import contextlib

with contextlib.suppress(ImportError):
    import yaml

    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
