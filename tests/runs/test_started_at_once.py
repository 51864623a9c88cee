"""The fork server starts beside the composition of the configuration."""

import sys
from pathlib import Path

import pytest

from tests.planning.fake_gpus import fake_gpu, fake_nvidia_smi
from trm_agent import train
from trm_agent.fork_server import handle
from trm_agent.runs import compose, hidden_gpus
from trm_agent.runs.compose import compose_run, expected_variables, plain


@pytest.fixture
def serves_nobody(tmp_path, monkeypatch):
    """Let the server be a process that waits for its end."""
    monkeypatch.setattr(hidden_gpus, "DEVICES", tmp_path)
    monkeypatch.setattr(handle, "_HERE", tmp_path)
    monkeypatch.setenv(handle.SOCKET_VARIABLE, "")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "server.py").write_text("import sys; sys.stdin.read()")
    yield
    handle.stop()


def test_the_expected_variables_are_those_of_the_composed_default(tmp_path, monkeypatch):
    monkeypatch.setattr(hidden_gpus, "DEVICES", tmp_path)
    composed = plain(compose_run(["experiment=math_nano"]).hardware)["env_vars"]
    assert expected_variables(["seed=1"]) == {name: str(value) for name, value in composed.items()}
    for override in ("hardware=gpu", "hardware.fork_server=false", "++hardware.env_vars.OMP_NUM_THREADS=1"):
        assert expected_variables(["seed=1", override]) is None
    for device in ("nvidia3", "kfd", "dxg"):
        (tmp_path / device).touch()
        assert expected_variables([]) is None
        (tmp_path / device).unlink()
    (tmp_path / "nvidiactl").touch()
    assert expected_variables([]) is not None


def test_the_expected_variables_on_gpus_are_those_of_what_will_run(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, fake_gpu())
    monkeypatch.setattr(compose, "lacks_cuda", lambda: False)
    composed = plain(compose_run(["experiment=math_1x80gb"]).hardware)["env_vars"]
    expected = {name: str(value) for name, value in composed.items()}
    for experiment in ([], ["experiment=auto"], ["experiment=math_1x80gb"], ["experiment=code_qwen3_8b"]):
        assert expected_variables([*experiment, "seed=1"]) == expected
    # on the processor, or of no preset
    for override in ("experiment=math_nano", "experiment=math_smollm2", "experiment=nowhere", "hardware=gpu"):
        assert expected_variables([override]) is None
    for name, value in (("RAY_ADDRESS", "head:6379"), ("CUDA_VISIBLE_DEVICES", "")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert expected_variables([]) is None
    monkeypatch.setattr(compose, "lacks_cuda", lambda: True)
    assert expected_variables([]) is None


@pytest.mark.usefixtures("serves_nobody")
@pytest.mark.parametrize("is_composed", [False, True])
def test_a_run_that_is_refused_leaves_no_server(is_composed, monkeypatch, capsys):
    seen = []
    refused = train._refuse_or_pin if is_composed else train.composed

    def refuse(*given):
        seen.append(handle._SERVERS[0].process)
        return refused(*given)

    monkeypatch.setattr(train, refused.__name__, refuse)
    wrong = "trainer.total_training_steps=0" if is_composed else "trainer.total_training_stepps=1"
    assert train.main(["experiment=math_nano", wrong]) == train.BAD_INPUT
    assert "total_training_step" in capsys.readouterr().err
    assert [process.returncode for process in seen] == [-9]
    assert handle._SERVERS == []


@pytest.mark.usefixtures("serves_nobody")
@pytest.mark.parametrize("look", ["--cfg", "--check"])
def test_who_only_looks_starts_none(look, monkeypatch):
    monkeypatch.setattr(handle, "start_at_once", lambda _: pytest.fail("started"))
    monkeypatch.setattr(train, "_look", lambda *_: 0)
    monkeypatch.chdir(Path(handle._HERE))
    assert train.main([look, "experiment=math_nano"]) == 0
