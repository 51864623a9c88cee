"""Folders that somebody else made: nothing in them breaks the page or the command, and each fault is told."""

import copy
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from tests.report.synthetic import ATTACK, episode_row, write_evaluation, write_run
from tests.report.test_page import arguments, data_of
from trm_agent.commands import report as command
from trm_agent.report.build import build_report, embedded, filled
from trm_agent.report.sources import open_sources
from trm_agent.trust_region.dump import DIVERGENCES, read_dump
from trm_agent.trust_region.dump_size import check_padded
from trm_fields import parquet_size

PLACES = "{{script}}{{data}}{{title}}{{policy}}{{style}}{{refresh}}{{nothing}}"
EVIL = f"{PLACES}{ATTACK}<!--<script>\u2028\u2029\x00'\"\\"
DEEP = "[" * 100_000


def test_places_are_filled_in_one_pass() -> None:
    assert filled("{{a}}-{{b}}", {"a": "{{b}}{{a}}", "b": "\\1{{a}}"}) == "{{b}}{{a}}-\\1{{a}}"
    assert filled("{{a}}", {"a": "\udcff"}) == "?"


def test_embedded_json_is_plain_ascii_and_means_the_same() -> None:
    text = embedded({EVIL: [EVIL, {"__proto__": EVIL}]})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {EVIL: [EVIL, {"__proto__": EVIL}]}


def test_names_of_the_template_in_every_name_and_value_stay_text(tmp_path: Path) -> None:
    calm = build_report([write_run(tmp_path / "calm", [episode_row()])], tmp_path / "calm.html").path.read_text()
    folder = write_run(
        tmp_path / PLACES,
        [episode_row(env=EVIL, seed=EVIL, stop_reason=EVIL, error=EVIL, final_observation=EVIL)],
        config={EVIL: EVIL, "seed": EVIL, "env": {"id": EVIL}},
    )
    (folder / "git.json").write_text(json.dumps({"commit": EVIL}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, f"env/stop_reason/{EVIL}": 1.0, f"env/val_success/h{EVIL}": 1.0}) + "\n")
    page = build_report([folder], tmp_path / "page.html").path.read_text()
    # the same elements as of a folder of which nobody made anything
    for tag in ("<script", "</script>", "<!--", "<img", "<title>", "<style>"):
        assert page.count(tag) == calm.count(tag), tag
    assert (
        page.partition("<script>")[2].partition("<script")[0] == calm.partition("<script>")[2].partition("<script")[0]
    )
    assert f"<title>{PLACES} · trm report</title>" in page
    data = data_of(tmp_path / "page.html")
    assert data["episodes"]["env"] == [EVIL[:200]]
    assert [EVIL, EVIL] in data["runs"][0]["config"]


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("results.jsonl", DEEP, "nested more than 100 levels deep"),
        ("results.jsonl", '{"task": 1' + "0" * 5000 + "}", "an integer of 5001 digits"),
        ("results.jsonl", "null", "a NoneType, not an object"),
        ("metrics.jsonl", DEEP, "nested more than 100 levels deep"),
        ("metrics.jsonl", '{"step": 1' + "0" * 400 + "}", "an integer of 401 digits"),
        ("metrics.jsonl", "{'step': 1}", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_shown(
    tmp_path: Path, file: str, line: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_evaluation(tmp_path / "a") if file == "results.jsonl" else write_run(tmp_path / "a")
    lines = (folder / file).read_text().split("\n")
    (folder / file).write_text("\n".join([*lines[:2], line, *lines[2:]]))
    (source,) = open_sources([folder])
    (note,) = source.notes
    assert f"{file}: line 3 cannot be read ({reason}" in note
    if file == "metrics.jsonl":
        assert command.run(arguments(str(folder))) == 0
        assert note in capsys.readouterr().err
    assert len(source.results or source.metrics) == len(lines) - 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(("config.yaml", text) for text in ("- " * 100_000, "a: 1" + "0" * 5000, "a: 2001-99-99", "checkpoints: 5")),
        ("summary.json", DEEP),
        ("git.json", DEEP),
    ],
)
def test_a_damaged_description_leaves_a_page(tmp_path: Path, file: str, text: str) -> None:
    folder = write_run(tmp_path / "a", [episode_row()])
    (folder / file).write_text(text)
    assert build_report([folder], tmp_path / "page.html").num_episodes == 1


def rewrite(file: Path, header: dict[str, Any] | None = None, record: str | None = None, drop: str = "") -> None:
    table = pyarrow.parquet.read_table(file)
    kept = json.loads(table.schema.metadata[b"trm"])
    rows = table.to_pylist()
    if record is not None:
        rows[0]["episode"] = record
    schema = table.schema.with_metadata({"trm": json.dumps({**kept, **(header or {})})})
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    pyarrow.parquet.write_table(table.drop_columns([drop]) if drop else table, file)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"version": 4}, "version 4"),
        ({"version": "2"}, "version '2'"),
        ({"version": None}, "version None"),
        ({"format": EVIL}, "format '{{script}}"),
    ],
)
def test_the_report_and_the_analysis_refuse_a_version_in_the_same_words(
    tmp_path: Path, header: dict[str, Any], told: str
) -> None:
    folder = write_run(tmp_path / "a", [episode_row()])
    file = next((folder / "rollouts").iterdir())
    rewrite(file, header)
    (note,) = build_report([folder], tmp_path / "page.html").notes
    with pytest.raises(ValueError, match="allowed: 'trm-agent rollouts', version 2 or 3") as refused:
        read_dump(folder / "rollouts")
    words = str(refused.value).removeprefix(str(file))
    assert told in words
    # the report reads the first version, too
    words = words.replace("version 2 or 3; read", "version 1 or 2 or 3; read")
    assert note == f"a: {file.name}{words}; skipped"


@pytest.mark.parametrize(
    "record", [DEEP, "null", "[]", '{"turns": 3}', '{"turns": [1]}', '{"seed": 1' + "0" * 5000 + "}"]
)
def test_the_record_of_an_episode_that_cannot_be_read_is_told(tmp_path: Path, record: str) -> None:
    folder = write_run(tmp_path / "a", [episode_row()])
    file = next((folder / "rollouts").iterdir())
    rewrite(file, record=record)
    (note,) = build_report([folder], tmp_path / "page.html").notes
    assert f"{file.name}: the record of row 0" in note


def test_a_small_file_of_very_many_equal_tokens_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_size, "FREE_BYTES", 4 << 20)
    folder = write_run(tmp_path / "a", [episode_row(kl=[0.1] * 8)])
    file = next((folder / "rollouts").iterdir())
    table, number = pyarrow.parquet.read_table(file), 1 << 17
    for place, field in enumerate(table.schema):
        if field.name in (*DIVERGENCES, "response_ids", "response_mask", "log_probs", "rollout_log_probs"):
            values = pyarrow.array(np.zeros(number, np.int8)).cast(field.type.value_type)
            table = table.set_column(place, field, pyarrow.ListArray.from_arrays([0, number], values).cast(field.type))
    pyarrow.parquet.write_table(table, file, compression="zstd")
    assert file.stat().st_size < 50_000
    (note,) = build_report([folder], tmp_path / "page.html").notes
    # eight columns of 8 bytes a token
    grown = re.search(rf"{file.name}: {file.stat().st_size} bytes would grow to (\d+), as in no dump", note)
    assert grown is not None
    assert 64 * number < int(grown[1]) < 66 * number
    with pytest.raises(ValueError, match="would grow to"):
        read_dump(file)


def test_one_long_sequence_among_very_many_short_ones_is_no_table() -> None:
    check_padded(np.array([1000] * 10_000 + [32_768]))
    check_padded(np.array([], np.int64))
    with pytest.raises(ValueError, match=r"100001 sequences, 1100000 tokens, the longest of 1000000: .* nearly empty"):
        check_padded(np.array([1] * 100_000 + [1_000_000]))


@pytest.mark.parametrize("column", ["step", "log_probs", "response_mask"])
def test_an_analysis_of_a_file_without_a_column_names_it(tmp_path: Path, column: str) -> None:
    folder = write_run(tmp_path / "a", [episode_row(kl=[0.1] * 8)])
    file = next((folder / "rollouts").iterdir())
    rewrite(file, drop=column)
    with pytest.raises(ValueError, match=rf"without {column}\)"):
        read_dump(file)


def test_a_report_imports_no_module_that_a_folder_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "chosen_by_a_folder.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')")
    folder = write_evaluation(tmp_path / "a")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    from trm_envs.rows.files import hash_of_file

    digest = hash_of_file(str(tmp_path / "rows.jsonl"))
    for module, env_id in (("chosen_by_a_folder", "trm/PythonMath-v0"), (None, "chosen_by_a_folder:x/Y-v0")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        kwargs = {"rows": str(tmp_path / "rows.jsonl")}
        entry = {"name": "chain", "id": env_id, "module": module, "kwargs": kwargs, "rows_hash": digest}
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "environments": [entry]}))
        build_report([folder], tmp_path / "page.html")
        assert not (tmp_path / "it_ran").exists()
        data = data_of(tmp_path / "page.html")
        assert any("not imported here" in note for note in data["runs"][0]["notes"])


JUNK = (
    None, True, 0, -1, 10**200, 1e308, float("nan"), float("inf"), "", "x" * 1000, EVIL, [], [1], {}, {"a": 1},
    [[["x"]]], {"__proto__": {}}, "1e5", "²", "\ud800",
)  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """The value with junk somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        return {**value, name: changed(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return copy.deepcopy(rng.choice(JUNK))


def damage(folder: Path, rng: random.Random) -> None:
    file = rng.choice([path for path in folder.rglob("*") if path.is_file()])
    if file.suffix == ".yaml":
        file.write_text(json.dumps(changed(yaml.safe_load(file.read_text()), rng)))
    elif file.suffix == ".json":
        file.write_text(json.dumps(changed(json.loads(file.read_text()), rng)))
    elif file.suffix == ".jsonl":
        lines = file.read_text().split("\n")[:-1]
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(changed(json.loads(lines[place]), rng))
        file.write_text("\n".join([*lines, ""]))
    else:
        record = pyarrow.parquet.read_table(file).to_pylist()[0]["episode"]
        rewrite(file, record=json.dumps(changed(json.loads(record), rng)))


@pytest.mark.slow
def test_no_junk_in_a_folder_is_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(17)
    made = (write_run(tmp_path / "run", [episode_row()]), write_evaluation(tmp_path / "eval", finished=True))
    for number in range(80):
        folder = tmp_path / f"junk{number}"
        shutil.copytree(rng.choice(made), folder)
        for _ in range(rng.randint(1, 3)):
            damage(folder, rng)
        report = build_report([folder], tmp_path / "page.html")
        assert data_of(report.path)["runs"][0]["label"] == f"junk{number}"
        shutil.rmtree(folder)


def test_a_pipe_in_a_folder_and_names_that_are_no_paths_hang_and_break_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"model": {"path": "~nobody-of-that-name/x", "tokenizer_path": "x" * 5000 + "\x00"}}
    folder = write_run(tmp_path / "\x1b[2Ja", [episode_row()], config={"actor_rollout_ref": models})
    assert command.run(arguments(str(folder))) == 0
    told = capsys.readouterr()
    assert "\\x1b[2Ja: tokens are shown as ids" in told.err
    assert "\x1b" not in told.err + told.out
    os.mkfifo(folder / "rollouts" / "step_000009.parquet")
    with pytest.raises(ValueError, match=r"step_000009.parquet: neither a file nor a folder"):
        command.run(arguments(str(folder)))
