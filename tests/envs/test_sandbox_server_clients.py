"""The server under the published clients, unmodified: the client package, and verl's own reward function."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import sandbox_fusion
from sandbox_fusion import RunCodeRequest, RunJupyterRequest, RunStatus, SummaryMapping

from tests.envs.fusion_support import running_server
from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.sandbox import Limits, LocalSandbox

pytestmark = needs_bubblewrap
LIMITS = Limits(wall_s=5, cpu_s=5)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalSandbox(LIMITS, max_concurrent=4) as local, running_server(local) as url:
        yield url


def program(**fields: Any) -> dict[str, Any]:
    return {"code": "print(1)", "language": "python", **fields}


def test_the_published_client_runs_code_with_files(address: str) -> None:
    request = RunCodeRequest(
        code="print(input() + open('in').read())\nopen('out', 'w').write('made')",
        language="python",
        stdin="a",
        files={"in": base64.b64encode(b"b").decode(), "not there": None},
        fetch_files=["out", "absent"],
    )
    response = sandbox_fusion.run_code(request, endpoint=address, max_attempts=1)
    assert (response.status, response.message) == (RunStatus.Success, "")
    assert response.run_result.stdout == "ab\n"
    assert response.run_result.return_code == 0
    assert response.run_result.execution_time > 0
    assert response.files == {"out": base64.b64encode(b"made").decode()}
    assert sandbox_fusion.summary_run_code_result(response, SummaryMapping()) == "Success"


@pytest.mark.parametrize(
    ("fields", "status", "return_code", "word"),
    [
        ({"code": "import sys; sys.exit(3)"}, "Finished", 3, "RunFailed"),
        ({"code": "exit 4", "language": "bash"}, "Finished", 4, "RunFailed"),
        ({"code": "while True: pass", "run_timeout": 0.3}, "TimeLimitExceeded", None, "RunTimeout"),
        ({"code": "while True: print('x' * 9999)"}, "Finished", -9, "RunFailed"),
    ],
)
def test_the_published_client_reads_failures_as_the_published_servers(
    address: str, fields: dict, status: str, return_code: int | None, word: str
) -> None:
    request = RunCodeRequest(**program(**fields))
    response = sandbox_fusion.run_code(request, endpoint=address, max_attempts=1)
    assert response.status == RunStatus.Failed
    assert (response.run_result.status, response.run_result.return_code) == (status, return_code)
    mapping = SummaryMapping(RunFailed="RunFailed", RunTimeout="RunTimeout")
    assert sandbox_fusion.summary_run_code_result(response, mapping) == word


async def test_the_published_async_client_and_run_concurrent(address: str) -> None:
    calls = [
        sandbox_fusion.run_code_async(RunCodeRequest(**program(code=f"print({i})")), endpoint=address, max_attempts=1)
        for i in range(6)
    ]
    assert [response.run_result.stdout for response in await asyncio.gather(*calls)] == [f"{i}\n" for i in range(6)]
    responses = await asyncio.to_thread(
        sandbox_fusion.run_concurrent,
        sandbox_fusion.run_code,
        args=[[RunCodeRequest(**program(code=f"print({i} ** 2)")), address, 1] for i in range(12)],
        concurrency=6,
    )
    assert [response.run_result.stdout for response in responses] == [f"{i**2}\n" for i in range(12)]


def test_the_published_client_runs_a_notebook(address: str) -> None:
    notebook = ["a = 123", "print(a)", "import sys; sys.stderr.write('low')", "1 / 0", "print(a + 1)"]
    request = RunJupyterRequest(cells=notebook, files={"f": "AA=="}, fetch_files=["f"])
    response = sandbox_fusion.run_jupyter(request, endpoint=address, max_attempts=1)
    assert (response.status, response.driver.status) == (RunStatus.Success, "Finished")
    assert [cell.stdout for cell in response.cells] == ["", "123\n", "", "", "124\n"]
    assert response.cells[2].stderr == "low"
    error = response.cells[3].error[0]
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert error["traceback"][0].startswith("Traceback")
    assert response.files == {"f": "AA=="}


@pytest.mark.parametrize(
    ("fields", "status", "num_cells"),
    [
        ({"cell_timeout": 0.3}, "TimeLimitExceeded", 2),
        ({"total_timeout": 0.4}, "TimeLimitExceeded", 2),
        ({"cells": ["import os; os._exit(0)", "1"]}, "Finished", 1),
    ],
)
def test_a_notebook_ends_with_the_cell_that_ends_its_interpreter(
    address: str, fields: dict, status: str, num_cells: int
) -> None:
    request = RunJupyterRequest(**{"cells": ["print(1)", "while True: pass", "print(2)"], **fields})
    response = sandbox_fusion.run_jupyter(request, endpoint=address, max_attempts=1)
    assert (response.status, response.driver.status, len(response.cells)) == (RunStatus.Failed, status, num_cells)
    assert "ended the interpreter" in response.message


def test_the_memory_limit_of_a_request_holds(address: str) -> None:
    body = program(code="x = bytearray(150 << 20)\nprint('had it')")
    url = f"{address}/run_code"
    assert requests.post(url, json={**body, "memory_limit_MB": 256}).json()["run_result"]["stdout"] == "had it\n"
    refused = requests.post(url, json={**body, "memory_limit_MB": 100}).json()
    assert (refused["status"], refused["run_result"]["return_code"]) == ("Failed", 1)
    assert "MemoryError" in refused["run_result"]["stderr"]
    assert requests.post(url, json={**body, "memory_limit_MB": -1}).json()["status"] == "Success"


@pytest.mark.slow  # imports verl: ten seconds
def test_verls_own_reward_function_scores_against_the_server(address: str) -> None:
    from verl.utils.reward_score.sandbox_fusion import compute_score

    cases = {"inputs": ["1\n", "2\n", "3\n"], "outputs": ["1\n", "4\n", "9"]}
    gate = threading.Semaphore(4)

    def score(code: str, given: dict, timeout: int = 5) -> tuple[float, list]:
        completion = f"text\n```python\n{code}\n```"
        return compute_score(f"{address}/run_code", gate, 256, completion, dict(given), timeout=timeout)

    assert score("n = int(input())\nprint(n * n)", cases)[0] == 1.0
    right, details = score("n = int(input())\nprint(n * n if n < 3 else 0)", cases)
    assert right == pytest.approx(2 / 3)
    assert [detail["status"] for detail in details] == ["success", "success", "wrong_answer"]
    one = {"inputs": ["1\n"], "outputs": ["1\n"]}
    for code, status in (
        ("1 / 0", "runtime_error"),
        ("while True: pass", "timeout"),
        ("x = bytearray(1 << 40)", "runtime_error"),
    ):
        failed, details = score(code, one, timeout=1)
        assert (failed, details[0]["status"]) == (0.0, status)
    called = {"fn_name": "double", "inputs": ["3", "4"], "outputs": ["6", "8"]}
    assert score("def double(x):\n    return 2 * x", called)[0] == 1.0
