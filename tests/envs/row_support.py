"""Files of rows for tests."""

import json
from pathlib import Path
from typing import Any


def write(path: Path, *truths: Any, **fields: Any) -> str:
    rows = [{"question": f"Question {number}?", "answer": truth, **fields} for number, truth in enumerate(truths)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
