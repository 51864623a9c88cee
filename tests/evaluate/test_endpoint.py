"""The endpoint engine against a small fake of an OpenAI-compatible server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.episode.fakes import byte_tokenizer
from trm_agent.episode import ChatTokens
from trm_agent.evaluate.checkpoints.served import KEY_VARIABLE, base_url, served_context, served_model
from trm_agent.evaluate.checkpoints.source import fingerprint, parse_checkpoint
from trm_agent.evaluate.engines import endpoint
from trm_agent.evaluate.engines.endpoint import EndpointEngine, EndpointError
from trm_agent.evaluate.engines.sampling import Sampling, turn_seed


class FakeServer(ThreadingHTTPServer):
    """Answers what the test tells it to and keeps the bodies that it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.models: Any = {"data": [{"id": "fake-model"}]}
        self.answers: list[tuple[int, Any]] = []
        self.always: tuple[int, Any] = (200, {})
        self.delay_s = 0.0
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.most_at_once = self.num_now = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """Stays silent about a client that left."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        time.sleep(self.server.delay_s)
        status = 200 if self.path == "/v1/models" else 404
        self.reply(status, self.server.models)

    def do_POST(self) -> None:
        server = self.server
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        with server.lock:
            server.num_now += 1
            server.most_at_once = max(server.most_at_once, server.num_now)
        time.sleep(server.delay_s)
        with server.lock:
            server.num_now -= 1
        self.reply(*(server.answers.pop(0) if server.answers else server.always))

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode() if not isinstance(content, bytes) else content
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Stays silent."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    fake.shutdown()
    fake.server_close()
    thread.join()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [fields]}


def turn(ids: list[int], log_probs: list[Any] | None = None, finish_reason: str = "stop") -> dict[str, Any]:
    return choice(text="", token_ids=ids, logprobs={"token_logprobs": log_probs}, finish_reason=finish_reason)


def opened(server: FakeServer, tokenizer: Any, **arguments: Any) -> EndpointEngine:
    return EndpointEngine(server.url, "fake-model", tokenizer, arguments.pop("sampling", Sampling()), **arguments)


async def test_tokens_and_log_probs_come_back_verbatim(server: FakeServer, tokenizer: Any) -> None:
    end = ChatTokens(tokenizer).end_of_turn_id
    server.always = (200, turn([5, 6, end], [-0.5, -0.25, -1.0]))
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=11)
    async with opened(server, tokenizer, sampling=sampling) as engine:
        generator = engine.generator(3)
        generation = await generator.generate([1, 2, 3], 40)
        await generator.generate([1, 2, 3], 40)
    assert generation.token_ids == [5, 6, end]
    assert generation.log_probs == [-0.5, -0.25, -1.0]
    assert generation.finished
    assert generation.extra == {}
    _, first, second = server.bodies
    assert first["prompt"] == [1, 2, 3]
    assert (first["model"], first["max_tokens"]) == ("fake-model", 40)
    assert (first["temperature"], first["top_p"]) == (0.7, 0.9)
    assert first["stop_token_ids"] == ChatTokens(tokenizer).stop_token_ids
    assert (first["seed"], second["seed"]) == (turn_seed(11, 3, 0), turn_seed(11, 3, 1))


async def test_a_turn_that_max_tokens_cut_is_not_finished(server: FakeServer, tokenizer: Any) -> None:
    server.always = (200, turn([5, 6], [-0.5, -0.25], "length"))
    async with opened(server, tokenizer) as engine:
        assert not (await engine.generator(0).generate([1], 2)).finished


async def test_a_stripped_stop_token_is_not_put_back_unless_nothing_is_left(server: FakeServer, tokenizer: Any) -> None:
    server.always = (200, turn([5], [-0.5]))
    async with opened(server, tokenizer) as engine:
        server.answers = [(200, turn([5, 6], [-0.5, -0.25])), (200, turn([], []))]
        stripped, empty = [await engine.generator(0).generate([1], 9) for _ in range(2)]
    assert (stripped.token_ids, stripped.finished) == ([5, 6], True)
    assert (empty.token_ids, empty.finished) == ([ChatTokens(tokenizer).end_of_turn_id], True)
    assert empty.log_probs == [0.0]
    assert empty.extra == {endpoint.NO_LOG_PROBS: True}


@pytest.mark.parametrize("log_probs", [None, [-0.5], [-0.5, None], [-0.5, float("nan")]])
async def test_log_probs_that_do_not_fit_are_said_to_be_missing(
    server: FakeServer, tokenizer: Any, log_probs: list[Any] | None
) -> None:
    server.always = (200, turn([5, 6], log_probs, "length"))
    async with opened(server, tokenizer) as engine:
        generation = await engine.generator(0).generate([1], 2)
    assert generation.log_probs == [0.0, 0.0]
    assert generation.extra == {endpoint.NO_LOG_PROBS: True}


async def test_text_is_tokenised_again_and_warned_about_once(
    server: FakeServer, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    text = "two words and more"
    server.always = (200, choice(text=text, finish_reason="stop"))
    async with opened(server, tokenizer) as engine:
        generations = [await engine.generator(0).generate([1], 100) for _ in range(2)]
        cut = await engine.generator(0).generate([1], 2)
    assert generations[0].token_ids == tokenizer.encode(text, add_special_tokens=False)
    assert generations[0].extra == {endpoint.REENCODED: True, endpoint.NO_LOG_PROBS: True}
    assert len(cut.token_ids) == 2
    assert caplog.text.count("without token_ids") == 1


async def test_a_server_that_knows_no_extension_is_asked_without(server: FakeServer, tokenizer: Any) -> None:
    server.answers = [(400, {"error": "unknown field return_token_ids"})]
    server.always = (200, choice(text="words", finish_reason="stop"))
    async with opened(server, tokenizer) as engine:
        assert (await engine.generator(0).generate([1], 9)).finished
    assert "return_token_ids" in server.bodies[0]
    stop = [tokenizer.decode([index]) for index in ChatTokens(tokenizer).stop_token_ids]
    assert server.bodies[-1]["stop"] == stop
    assert not {"stop_token_ids", "return_token_ids"} & set(server.bodies[-1])


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(server: FakeServer, tokenizer: Any, status: int) -> None:
    server.always = (200, turn([5], [-0.5]))
    async with opened(server, tokenizer) as engine:
        server.answers = [(status, {})] * endpoint.NUM_RETRIES
        assert (await engine.generator(0).generate([1], 9)).token_ids == [5]
        server.answers = [(status, {})] * (endpoint.NUM_RETRIES + 1)
        with pytest.raises(EndpointError, match=rf"refused with {status}.*\(5 attempts\)"):
            await engine.generator(0).generate([1], 9)


async def test_a_refused_turn_is_not_asked_again(server: FakeServer, tokenizer: Any) -> None:
    server.always = (200, turn([5], [-0.5]))
    async with opened(server, tokenizer) as engine:
        server.answers = [(400, {"error": "too long"})]
        with pytest.raises(EndpointError, match="too long"):
            await engine.generator(0).generate([1], 9)
    assert len(server.bodies) == 2


async def test_a_stall_in_the_middle_fails_the_turn(server: FakeServer, tokenizer: Any) -> None:
    server.always = (200, turn([5], [-0.5]))
    async with opened(server, tokenizer, request_timeout_s=0.3) as engine:
        server.delay_s = 1.0
        with pytest.raises(EndpointError, match=r"no answer within 0\.3 s"):
            await engine.generator(0).generate([1], 9)


async def test_no_more_requests_than_allowed_are_under_way(server: FakeServer, tokenizer: Any) -> None:
    server.always = (200, turn([5], [-0.5]))
    async with opened(server, tokenizer, max_num_requests=3) as engine:
        server.delay_s = 0.05
        await asyncio.gather(*(engine.generator(seed).generate([1], 9) for seed in range(12)))
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [((401, {}), "refused with 401"), ((404, {}), "refused with 404"), ((200, b"<html>"), "not JSON")],
)
async def test_a_server_that_completes_nothing_is_refused_at_the_start(
    server: FakeServer, tokenizer: Any, answer: tuple[int, Any], message: str
) -> None:
    server.always = answer
    with pytest.raises(ValueError, match=message):
        await opened(server, tokenizer).__aenter__()


def test_the_model_is_asked_for_where_there_is_one_alone(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert served_model(server.url) == "fake-model"
    assert server.keys == ["Bearer secret"]
    server.models = {"data": [{"id": "a"}, {"id": "b"}]}
    assert served_model(server.url, "b") == "b"
    with pytest.raises(ValueError, match=r"serves 2 models \(a, b\); name one as"):
        served_model(server.url)
    with pytest.raises(ValueError, match="does not serve 'c' but a, b"):
        served_model(server.url, "c")


def test_a_server_that_refuses_stalls_or_is_another_is_told_apart(server: FakeServer) -> None:
    with pytest.raises(ValueError, match="refused with 404"):
        served_model(f"{server.url}/other")
    server.models = ["no", "object"]
    with pytest.raises(ValueError, match="not a list of models"):
        served_model(server.url)
    server.models = b"<html>"
    with pytest.raises(ValueError, match="not a list of models"):
        served_model(server.url)
    server.delay_s = 1.0
    with pytest.raises(ValueError, match=r"no answer within 0\.2 s"):
        served_model(server.url, timeout_s=0.2)
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="not reached"):
        served_model(server.url)


def test_the_server_says_how_long_a_context_it_takes(server: FakeServer) -> None:
    assert served_context(server.url, "fake-model") is None
    server.models = {"data": [{"id": "a", "max_model_len": 512}, {"id": "b", "max_model_len": 2048}]}
    assert served_context(server.url, "b") == 2048


def test_an_endpoint_is_parsed_with_its_model_and_tokenizer(server: FakeServer, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    root = server.url.removesuffix("/v1")
    for text in (f"mine={root}", f"mine={server.url}/", f"mine={server.url}#fake-model"):
        found = parse_checkpoint(text, tokenizer=str(tmp_path))
        assert (found.kind, found.label, found.url, found.model) == ("endpoint", "mine", server.url, "fake-model")
        assert found.tokenizer == tmp_path
        assert found.path is None
    assert parse_checkpoint(server.url, tokenizer=str(tmp_path)).label == "fake-model"
    server.models = {"data": [{"id": "other"}]}
    other = parse_checkpoint(server.url, tokenizer=str(tmp_path))
    assert fingerprint(other) != fingerprint(found)
    with pytest.raises(ValueError, match="--tokenizer"):
        parse_checkpoint(server.url)
    with pytest.raises(ValueError, match="no tokenizer"):
        parse_checkpoint(server.url, tokenizer=str(tmp_path / "absent"))


def test_only_an_address_without_a_path_is_completed() -> None:
    assert base_url("http://host:1") == base_url("http://host:1/") == "http://host:1/v1"
    assert base_url("https://host/api/v2/") == "https://host/api/v2"
