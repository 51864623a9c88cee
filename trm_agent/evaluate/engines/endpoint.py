"""The engine behind an OpenAI-compatible server: `/models` to find the model, `/completions` with token ids.

Token ids go out and, from a server with vLLM's extension, come back, so the model's context holds what it sampled. A
server without it answers with text, which is tokenised again; its log-probs are then 0.0 and said to be missing.
"""

import asyncio
import json
import logging
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from trm_agent.episode import ChatSettings, Generation, chat_tokens
from trm_agent.evaluate.engines.sampling import Sampling, SeededTurns

KEY_VARIABLE = "OPENAI_API_KEY"
LIST_TIMEOUT_S = 15.0
NUM_RETRIES = 4
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
# marks of a turn, in `Generation.extra`
NO_LOG_PROBS = "log_probs_missing"
REENCODED = "reencoded"
_HINT = f"check the address, and {KEY_VARIABLE} if the server asks for a key"
logger = logging.getLogger("trm_agent")


def base_url(url: str) -> str:
    """The address without a slash at its end; `/v1` where it has no path."""
    return url.rstrip("/") + ("" if urllib.parse.urlparse(url).path.strip("/") else "/v1")


def served_model(url: str, model: str | None = None, timeout_s: float = LIST_TIMEOUT_S) -> str:
    """Ask a server for the model that it serves.

    Args:
        url: as `base_url` returns it.
        model: the model that is meant; None where the server has one alone.
        timeout_s: seconds that the answer may take.

    Raises:
        ValueError: the server refuses, stalls, is none of the kind, or does not have the model.
    """
    names = [str(entry["id"]) for entry in _served(url, timeout_s)]
    shown = ", ".join(names[:8]) or "none"
    if model is None and len(names) != 1:
        raise ValueError(f"endpoint {url}: serves {len(names)} models ({shown}); name one as {url}#MODEL")
    if model is not None and model not in names:
        raise ValueError(f"endpoint {url}: does not serve {model!r} but {shown}; name one of these as {url}#MODEL")
    return model or names[0]


def served_context(url: str, model: str, timeout_s: float = LIST_TIMEOUT_S) -> int | None:
    """The tokens of the longest context that a server takes for a model; None where it does not say (vLLM does).

    Raises:
        ValueError: as `served_model`.
    """
    for entry in _served(url, timeout_s):
        length = entry.get("max_model_len")
        if str(entry["id"]) == model and isinstance(length, int) and length > 0:
            return length
    return None


def _served(url: str, timeout_s: float) -> list[dict[str, Any]]:
    """The server's entries of its models, each with an `id`."""
    asked = f"{url}/models"
    request = urllib.request.Request(asked, headers=_headers())
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return [{**entry, "id": entry["id"]} for entry in json.loads(answer.read())["data"]]
    except urllib.error.HTTPError as error:
        raise ValueError(f"endpoint {asked}: refused with {error.code} {error.reason}; {_HINT}") from None
    except (TimeoutError, urllib.error.URLError) as error:
        why = getattr(error, "reason", error)
        if isinstance(why, TimeoutError):
            raise ValueError(f"endpoint {asked}: no answer within {timeout_s:g} s; is the server up?") from None
        raise ValueError(f"endpoint {asked}: not reached ({why}); start the server or correct the address") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"endpoint {asked}: the answer is no list of models ({type(error).__name__}: {error}); give the address of "
            "an OpenAI-compatible server, such as http://host:8000/v1"
        ) from None


class EndpointEngine:
    """A served model that plays many episodes at once; open it with `async with`.

    Args:
        url: as `base_url` returns it.
        model: the served model's name.
        tokenizer: the model's.
        sampling: how tokens are drawn.
        max_num_requests: requests at once.
        request_timeout_s: seconds for one turn; a turn that takes longer fails.
        chat: how the model's chat template is used; None for the default.

    Raises:
        ValueError: on entering, if the server does not complete tokens.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: Any,
        sampling: Sampling,
        *,
        max_num_requests: int = 64,
        request_timeout_s: float = 600.0,
        chat: ChatSettings | None = None,
    ) -> None:
        self.url, self.model, self.tokenizer, self.sampling = f"{url}/completions", model, tokenizer, sampling
        self.request_timeout_s = request_timeout_s
        self.chat = chat_tokens(tokenizer, chat)
        self.extended = True
        self._slots = asyncio.Semaphore(max_num_requests)
        self._session: Any = None
        self._warned: set[str] = set()

    async def __aenter__(self) -> "EndpointEngine":
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self.request_timeout_s)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(headers=_headers(), timeout=timeout, connector=connector, trust_env=True)
        try:
            await self._probe()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def generator(self, seed: int) -> "EndpointGenerator":
        """Return what plays one episode; see `Engine`."""
        return EndpointGenerator(self, seed)

    async def complete(self, prompt_ids: list[int], max_tokens: int, seed: int) -> dict[str, Any]:
        """Return the server's choice for a prompt: `text`, `finish_reason`, perhaps `token_ids` and `logprobs`.

        Raises:
            EndpointError: the server refuses, is not reached or stalls, after the retries that make sense.
        """
        body = {
            "model": self.model,
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": seed,
            "logprobs": 1,
        }
        if self.extended:
            body["stop_token_ids"] = self.chat.stop_token_ids
            body |= {"return_token_ids": True, "skip_special_tokens": False}
        else:
            body["stop"] = [self.tokenizer.decode([index]) for index in self.chat.stop_token_ids]
        async with self._slots:
            answer = await self._post(body)
        try:
            choice = answer["choices"][0]
            return choice if isinstance(choice, dict) else {"text": str(choice)}
        except (KeyError, IndexError, TypeError):
            raise EndpointError(f"{self.url}: answered without a choice: {str(answer)[:200]}") from None

    async def _probe(self) -> None:
        """Complete one token, so that a server which cannot is found before the first episode."""
        prompt = self.chat.prompt("", "Hello")
        try:
            try:
                await self.complete(prompt, 1, 0)
            except EndpointError as error:
                if error.status not in (400, 422):
                    raise
                self.extended = False
                await self.complete(prompt, 1, 0)
        except EndpointError as error:
            raise ValueError(f"endpoint {error}; {_HINT}") from error

    async def _post(self, body: dict[str, Any]) -> Any:
        import aiohttp

        for attempt in range(NUM_RETRIES + 1):
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
            status = None
            try:
                async with self._session.post(self.url, json=body) as answer:
                    if answer.status == 200:
                        return await answer.json(content_type=None)
                    status, why = answer.status, f"refused with {answer.status}: {(await answer.text())[:300]}"
                    wait_s = max(wait_s, _retry_after(answer.headers.get("Retry-After")))
                    if status != 429 and status < 500:
                        raise EndpointError(f"{self.url}: {why}", status)
            except asyncio.TimeoutError:
                raise EndpointError(f"{self.url}: no answer within {self.request_timeout_s:g} s") from None
            except aiohttp.ClientError as error:
                why = f"not reached: {type(error).__name__}: {error}"
            except ValueError as error:
                raise EndpointError(f"{self.url}: the answer is not JSON: {error}") from None
            if attempt < NUM_RETRIES:
                await asyncio.sleep(wait_s)
        raise EndpointError(f"{self.url}: {why} ({NUM_RETRIES + 1} attempts)", status)

    def warn_once(self, message: str) -> None:
        """Log a warning the first time that it is given."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s: %s", self.url, message)


class EndpointError(RuntimeError):
    """A request that failed for good; `status` is the server's, None where it gave none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EndpointGenerator:
    """One episode's turns from a served model."""

    def __init__(self, engine: EndpointEngine, seed: int) -> None:
        self.engine, self.turns = engine, SeededTurns(engine, seed)

    async def generate(self, prompt_ids: list[int], max_tokens: int) -> Generation:
        """Sample one turn; see `trm_agent.episode.Generator`.

        Raises:
            EndpointError: the request failed for good.
        """
        engine = self.engine
        choice = await self.turns.complete(prompt_ids, max_tokens)
        extra: dict[str, Any] = {}
        ids = choice.get("token_ids")
        if ids is None:
            extra[REENCODED] = True
            engine.warn_once("returns text without token_ids: turns are tokenised again and have no log-probs")
            ids = engine.tokenizer.encode(choice.get("text") or "", add_special_tokens=False)[:max_tokens]
        # a server that strips the stop token leaves nothing of a turn that was that token alone
        stripped = not ids
        ids = list(ids) or [engine.chat.end_of_turn_id]
        given = None if extra or stripped else (choice.get("logprobs") or {}).get("token_logprobs")
        log_probs = _finite(given, len(ids))
        if log_probs is None:
            extra[NO_LOG_PROBS] = True
            log_probs = [0.0] * len(ids)
        finished = choice.get("finish_reason") == "stop" or ids[-1] in engine.chat.stop_token_ids
        return Generation(token_ids=ids, log_probs=log_probs, finished=finished, extra=extra)


def _finite(values: Any, length: int) -> list[float] | None:
    """The log-probs as numbers, or None where they are not one finite number a token."""
    if not isinstance(values, list) or len(values) != length:
        return None
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    return numbers if all(map(math.isfinite, numbers)) else None


def _retry_after(value: str | None) -> float:
    """Seconds that the server asks to wait; 0 where it asks for a date or nothing."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(value or 0)))
    except ValueError:
        return 0.0


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}
