"""The engine behind an OpenAI-compatible server: `/completions` with token ids.

Token ids go out and, from a server with vLLM's extension, come back, so the model's context holds its own samples. A
server without it answers with text, which is tokenised again; its log-probs are then 0.0 and marked as missing.
"""

import asyncio
import logging
import math
from typing import Any

from trm_agent.episode import ChatSettings, Generation, chat_tokens
from trm_agent.evaluate.checkpoints.served import HINT, headers
from trm_agent.evaluate.engines.sampling import Sampling, SeededTurns

NUM_RETRIES = 4
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
# marks of a turn, in `Generation.extra`
NO_LOG_PROBS = "log_probs_missing"
REENCODED = "reencoded"
logger = logging.getLogger("trm_agent")


class EndpointEngine:
    """A served model that plays many episodes at once; open it with `async with`.

    Args:
        url: as `base_url` returns it.
        model: name of the served model.
        tokenizer: the model's tokenizer.
        sampling: settings of the sampling.
        max_num_requests: the largest number of requests at once.
        request_timeout_s: seconds for one turn; a turn that takes longer fails.
        chat: settings of the model's chat template; None for the default.

    Raises:
        ValueError: on entering, if the server does not complete tokens.
    """

    at_once: int | None = None

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
        self._session = aiohttp.ClientSession(headers=headers(), timeout=timeout, connector=connector, trust_env=True)
        try:
            await self._probe()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def generator(self, seed: int) -> "EndpointGenerator":
        """Return the player of one episode; see `Engine`."""
        return EndpointGenerator(self, seed)

    async def complete(self, prompt_ids: list[int], max_tokens: int, seed: int) -> dict[str, Any]:
        """Return the server's choice for a prompt: `text`, `finish_reason`, perhaps `token_ids` and `logprobs`.

        Raises:
            EndpointError: the server refuses, is not reached or stalls, after the sensible retries.
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
        """Complete one token, so that a server that cannot do it is found before the first episode."""
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
            raise ValueError(f"endpoint {error}; {HINT}") from error

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
        """Log a warning, but only the first time."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s: %s", self.url, message)


class EndpointError(RuntimeError):
    """A request failed for good; `status` is the server's, or None."""

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
        # a server that strips the stop token leaves nothing of a turn that consisted of that token alone
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
    """Return the log-probs as numbers; None if they are not one finite number per token."""
    if not isinstance(values, list) or len(values) != length:
        return None
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    return numbers if all(map(math.isfinite, numbers)) else None


def _retry_after(value: str | None) -> float:
    """Return the seconds that the server asks to wait; 0 if it asks for a date or nothing."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(value or 0)))
    except ValueError:
        return 0.0
