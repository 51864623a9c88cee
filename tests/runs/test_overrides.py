"""Overrides that Hydra cannot read are answered with the text that the shell has to get."""

import re
import shlex
import string

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from trm_agent.evaluate.environments import changes
from trm_agent.runs.compose import compose_run
from trm_agent.runs.overrides import check_overrides, quoted

FIELD = "env.kwargs.rows"
PATHS = [
    "/data/epoch=1 (v2).parquet",
    "/data/a,b.parquet",
    "/data/[old] {x}.jsonl",
    "/data/Zürich.jsonl",
    "/data/it's.jsonl",
    '/data/"best".jsonl',
    "~/rows.jsonl",
    "/data/a&b;c#d!.jsonl",
    '/data/it\'s "best".jsonl',
    "C:\\rows (1).jsonl",
]


@pytest.mark.parametrize("path", PATHS)
def test_what_the_error_shows_is_what_hydra_reads(path: str) -> None:
    with pytest.raises(ValueError, match="needs quotes, for the shell and for Hydra: ") as caught:
        check_overrides(["experiment=math_nano", f"{FIELD}={path}"])
    assert str(caught.value).startswith(f"{FIELD}={path}: Hydra ")
    (shown,) = shlex.split(str(caught.value).partition("for Hydra: ")[2])
    assert OverridesParser.create().parse_override(shown).value() == path


def test_the_quoted_path_reaches_the_environment() -> None:
    with pytest.raises(ValueError, match="needs quotes") as caught:
        compose_run(["experiment=math_nano", "env=python_math", f"{FIELD}={PATHS[0]}"])
    (shown,) = shlex.split(str(caught.value).partition("for Hydra: ")[2])
    assert compose_run(["experiment=math_nano", "env=python_math", shown]).env.kwargs.rows == PATHS[0]


@given(st.text(string.printable.replace("\n", "").replace("\r", "") + "äß€", min_size=1, max_size=12))
def test_any_path_is_read_as_it_is_or_can_be_quoted(name: str) -> None:
    path = f"/data/{name}.jsonl"
    try:
        check_overrides([f"{FIELD}={path}"])
    except ValueError as error:
        (shown,) = shlex.split(str(error).rpartition("for Hydra: ")[2])
        assert OverridesParser.create().parse_override(shown).value() == path
    else:
        # Hydra takes a backslash before some characters for a mark of its own
        assert OverridesParser.create().parse_override(f"{FIELD}={path}").value() == path or "\\" in name


def test_a_path_that_the_shell_has_split_is_put_together() -> None:
    with pytest.raises(ValueError, match=r"file\.parquet: .*quote both: ") as caught:
        compose_run(["experiment=math_nano", "env.kwargs.rows=/data/my", "file.parquet"])
    assert "'env.kwargs.rows=\"/data/my file.parquet\"'" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape("--set: got 'file.parquet'")) as caught:
        changes(["rows=/data/my", "file.parquet"], ["python_math"])
    assert "quote both: 'rows=/data/my file.parquet'" in str(caught.value)


def test_a_word_alone_is_told_what_is_expected() -> None:
    with pytest.raises(ValueError, match="expected FIELD=VALUE, such as seed=1"):
        compose_run(["steps"])
    assert quoted("steps") is None


def test_a_setting_of_an_evaluation_takes_any_path() -> None:
    for path in PATHS:
        (change,) = changes([f"rows={path}"], ["python_math"])
        assert (change.field, change.value) == ("rows", path)


@pytest.mark.parametrize(
    "written", ["[sympy==1.14.0]", "[sympy==1.14.0, numpy==2.3.5]", '["sympy==1.14.0", numpy==2.3.5]']
)
def test_the_items_of_a_list_are_quoted_and_it_stays_a_list(written: str) -> None:
    field = "+env.kwargs.packages"
    with pytest.raises(ValueError, match="needs quotes") as caught:
        check_overrides([f"{field}={written}"])
    (shown,) = shlex.split(str(caught.value).partition("for Hydra: ")[2])
    wanted = ["sympy==1.14.0", "numpy==2.3.5"][: 1 + written.count(",")]
    assert OverridesParser.create().parse_override(shown).value() == wanted


def test_several_values_are_told_how_to_write_a_list():
    with pytest.raises(ValueError, match=r"write a list as 'env\.train\.horizons=\[2,4\]'"):
        check_overrides(["env.train.horizons=2,4"])
