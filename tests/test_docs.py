import importlib
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_every_function_that_the_math_names_exists():
    names = sorted(set(re.findall(r"`(trm_agent(?:\.\w+)+)`", (DOCS / "math.md").read_text())))
    functions = [name for name in names if name != "trm_agent.core"]
    assert len(functions) > 25
    for name in functions:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name
