"""Ask an OpenAI-compatible server for its model: address, name, context and key."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

KEY_VARIABLE = "OPENAI_API_KEY"
LIST_TIMEOUT_S = 15.0
MOST_BYTES = 1 << 24
HINT = f"check the address, and {KEY_VARIABLE} if the server asks for a key"


def base_url(url: str) -> str:
    """Return the address without a slash at its end, and with `/v1` if it has no path."""
    return url.rstrip("/") + ("" if urllib.parse.urlparse(url).path.strip("/") else "/v1")


def served_model(url: str, model: str | None = None, timeout_s: float = LIST_TIMEOUT_S) -> str:
    """Ask a server for the model that it serves.

    Args:
        url: as `base_url` returns it.
        model: the requested model; None if the server has only one.
        timeout_s: seconds that the answer may take.

    Raises:
        ValueError: the server refuses, stalls, is not of this kind, or does not have the model.
    """
    names = [str(entry["id"]) for entry in _served(url, timeout_s)]
    shown = ", ".join(names[:8]) or "none"
    if model is None and len(names) != 1:
        raise ValueError(f"endpoint {url}: serves {len(names)} models ({shown}); name one as {url}#MODEL")
    if model is not None and model not in names:
        raise ValueError(f"endpoint {url}: does not serve {model!r} but {shown}; name one of these as {url}#MODEL")
    return model or names[0]


def served_context(url: str, model: str, timeout_s: float = LIST_TIMEOUT_S) -> int | None:
    """Return the tokens of the longest context that a server takes for a model; None if it does not tell (vLLM does).

    Raises:
        ValueError: as `served_model`.
    """
    for entry in _served(url, timeout_s):
        length = entry.get("max_model_len")
        if str(entry["id"]) == model and isinstance(length, int) and length > 0:
            return length
    return None


def headers() -> dict[str, str]:
    """Return the headers of a request, with the key if the process environment has one."""
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _served(url: str, timeout_s: float) -> list[dict[str, Any]]:
    """Return the server's entries of its models, each with an `id`."""
    asked = f"{url}/models"
    request = urllib.request.Request(asked, headers=headers())
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return [{**entry, "id": entry["id"]} for entry in json.loads(answer.read(MOST_BYTES))["data"]]
    except urllib.error.HTTPError as error:
        raise ValueError(f"endpoint {asked}: refused with {error.code} {error.reason}; {HINT}") from None
    except (TimeoutError, urllib.error.URLError) as error:
        why = getattr(error, "reason", error)
        if isinstance(why, TimeoutError):
            raise ValueError(f"endpoint {asked}: no answer within {timeout_s:g} s; is the server up?") from None
        raise ValueError(f"endpoint {asked}: not reached ({why}); start the server or correct the address") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"endpoint {asked}: the answer is not a list of models ({type(error).__name__}: {error}); give the address "
            "of an OpenAI-compatible server, such as http://host:8000/v1"
        ) from None
