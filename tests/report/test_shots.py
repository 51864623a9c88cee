"""`scripts/report_shots.py`: eight pictures of a page, and plain words where there can be none."""

import struct
from pathlib import Path

import pytest

from tests.report.browser import NEEDS_BROWSER
from tests.report.synthetic import episode_row, write_run
from tests.structure_script import load
from trm_agent.report.build import build_report

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loaded = load(SCRIPTS / "report_shots.py")
    monkeypatch.setattr(loaded, "SETTLING_MS", 0)
    return loaded


def widths(folder: Path) -> dict[str, int]:
    """The pictures' widths: bytes 16 to 20 of a PNG's header."""
    return {picture.name: struct.unpack(">I", picture.read_bytes()[16:20])[0] for picture in folder.iterdir()}


@pytest.mark.slow
@NEEDS_BROWSER
def test_first_screen_and_viewer_are_photographed_light_and_dark_wide_and_narrow(script, tmp_path, capsys) -> None:
    rows = [episode_row(success=each, seed=number) | {"task": "aaaa"} for number, each in enumerate([True, False])]
    page = build_report([write_run(tmp_path / "run", rows)], tmp_path / "page.html").path
    assert script.main([str(page), str(tmp_path / "shots")]) == 0
    assert widths(tmp_path / "shots") == {
        f"{view}-{scheme}-{width}.png": width
        for view in ("first", "viewer")
        for scheme in ("light", "dark")
        for width in (1400, 500)
    }
    assert len(capsys.readouterr().out.splitlines()) == 8
    wide = tmp_path / "wide.html"
    wide.write_text(page.read_text().replace("<main>", '<main><div style="width: 1200px">wide</div>'))
    assert script.main([str(wide), str(tmp_path / "none")]) == 2
    assert "first-light-500.png: the page is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("accepted", "advantages", "chosen"),
    [([True, True, False], [0.0, 0.5, 0.5], 2), ([True, False], [0.5, 0.0], 0), ([None, None], [None, None], 0)],
)
def test_an_episode_of_a_group_with_unlike_rewards_is_chosen_and_a_rejected_one_first(
    script, accepted, advantages, chosen
) -> None:
    names = [str(number) for number in range(len(accepted))]
    assert script.choose({"id": names, "accepted": accepted, "advantage": advantages}) == chosen
    with pytest.raises(ValueError, match=r"no episodes; train with .*dump\.every=N"):
        script.choose({"id": []})


def test_a_machine_without_a_browser_is_told_what_to_install(script, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("playwright", reason="pip install playwright")
    page = tmp_path / "page.html"
    page.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    assert script.main([str(page), str(tmp_path / "shots")]) == 2
    told = capsys.readouterr().err
    assert "no browser: none of chromium, chromium-browser, google-chrome is on PATH" in told
    assert "apt-get install chromium" in told
    assert not (tmp_path / "shots").exists()


def test_a_report_that_is_not_there_and_a_folder_that_is_a_file_are_refused(script, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    for given, words in ((["none.html", "x"], "trm report RUN"), (["file", "file"], "a file, allowed: a folder")):
        with pytest.raises(SystemExit) as ended:
            script.main([str(tmp_path / name) for name in given])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
