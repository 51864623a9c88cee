"""The page: one file that loads nothing from the network.

The list and the curves come before the episodes, so that a large page can be used before the browser has read all of
it.
"""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from trm_agent.report.curves import charts
from trm_agent.report.depth import depth_charts
from trm_agent.report.endings import failure_tables
from trm_agent.report.episodes import Packed, clean, pack_episodes, precision
from trm_agent.report.evaluation import evaluation_charts, evaluation_tables, figures
from trm_agent.report.overview import cards, differences, preset_differences
from trm_agent.report.results import result_table
from trm_agent.report.sampler import sampler_tables
from trm_agent.report.sources import Source, open_sources
from trm_agent.report.times import coloured, gap_series, shown_steps, time_shares
from trm_agent.report.trend import trend_tables
from trm_agent.report.vocabulary import find_tokenizer, load_tokenizer
from trm_agent.report.why import why_sections

SCRIPTS = ("dom", "codec", "scale", "charts", "overview", "why", "filters", "list", "tokens", "episode", "keys", "main")
MAX_EPISODES = 2000
HOW_TO_DUMP = "actor_rollout_ref.actor.policy_loss.dump.every=10"


@dataclass(frozen=True)
class Report:
    """The written page."""

    path: Path
    num_bytes: int
    num_episodes: int
    available: int
    """Episodes in the folders."""
    seconds: float
    finished: bool
    """True if all folders are final."""
    notes: list[str]


def build_report(
    paths: Sequence[Path],
    out: Path,
    max_episodes: int = MAX_EPISODES,
    tokenizer: Path | None = None,
    reload_seconds: float | None = None,
) -> Report:
    """Write the page of some folders; a reader sees the old page or the new one, never a part.

    Args:
        paths: the folders of runs and evaluations.
        out: the file.
        max_episodes: largest number of episodes in the viewer, at least 0.
        tokenizer: the folder of a tokenizer for all of them; None takes each run's own.
        reload_seconds: seconds after which an open page reads its file again; None for never.

    Raises:
        ValueError: a path is not a run, or `tokenizer` is not a tokenizer's folder.
    """
    started = time.time()
    if max_episodes < 0:
        raise ValueError(f"max_episodes: got {max_episodes}; allowed: 0 or more; give a number of episodes")
    if tokenizer is not None and find_tokenizer([tokenizer]) is None:
        raise ValueError(f"tokenizer={tokenizer}: no tokenizer.json in it; give the folder of a tokenizer")
    if out.is_dir():
        raise ValueError(f"out={out}: is a folder; give the page's file, such as {out / 'report.html'}")
    given = None if tokenizer is None else load_tokenizer(tokenizer)
    sources = open_sources(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with tempfile.TemporaryFile("w+", encoding="ascii", dir=out.parent) as spool:
            packed = pack_episodes(sources, max_episodes, lambda number, text: _element(spool, f"e{number}", text))
            vocabularies = _vocabularies(packed, sources, given)
            reload = None if all(source.finished for source in sources) else reload_seconds
            with unfinished.open("w", encoding="utf-8", newline="\n") as page:
                page.write(_head(_data(sources, packed), sources, reload))
                for index, text in enumerate(vocabularies):
                    _element(page, f"v{index}", text)
                spool.seek(0)
                shutil.copyfileobj(spool, page, 1 << 20)
                page.write("</body>\n</html>\n")
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    notes = [*(f"{s.label}: {note}" for s in sources for note in s.notes), *packed.notes]
    finished = all(source.finished for source in sources)
    shown = len(packed.index["id"])
    return Report(out, out.stat().st_size, shown, packed.available, time.time() - started, finished, notes)


def _element(page: IO[str], name: str, text: str) -> None:
    page.write(f'<script type="text/plain" id="{name}">{text}</script>\n')


def _vocabularies(packed: Packed, sources: Sequence[Source], given: Any | None) -> list[str]:
    """Pack the token tables; a folder without a tokenizer is noted, and its page shows ids."""
    loaded: dict[Path, Any] = {}
    texts = []
    for source, vocabulary in zip(sources, packed.vocabularies, strict=True):
        tokenizer = given
        if tokenizer is None and len(vocabulary):
            folder = source.tokenizer_folder()
            try:
                if folder is not None and folder not in loaded:
                    loaded[folder] = load_tokenizer(folder)
                tokenizer = loaded.get(folder) if folder is not None else None
                reason = "none was found" if folder is None else ""
            except ValueError as error:
                reason = str(error)
            if tokenizer is None:
                packed.notes.append(f"{source.label}: tokens are shown as ids, without a tokenizer ({reason})")
        texts.append(vocabulary.packed(tokenizer))
    return texts


def _data(sources: Sequence[Source], packed: Packed) -> dict[str, Any]:
    found = [figures(source) for source in sources]
    tables = [*trend_tables(sources), *failure_tables(packed.index, sources), *sampler_tables(sources, packed.draws)]
    curves = [*depth_charts(sources), *charts(sources, [gap_series(source) for source in sources])]
    return {
        "results": result_table(sources),
        "why": why_sections(sources, packed.index),
        "times": [coloured(time_shares(source)) for source in sources],
        "steps": [shown_steps(source) for source in sources],
        "failures": tables,
        "presets": [preset_differences(source) for source in sources],
        "runs": cards(sources),
        "charts": [*evaluation_charts(found), *curves],
        "tables": evaluation_tables(sources, found),
        "differences": differences(sources),
        "episodes": packed.index,
        "settings": packed.settings,
        "available": packed.available,
        "bits": packed.bits,
        "precision": precision(packed),
        "notes": packed.notes,
        "how_to_dump": HOW_TO_DUMP,
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _head(data: dict[str, Any], sources: Sequence[Source], reload_seconds: float | None) -> str:
    script = "\n".join(["(() => {", '"use strict";', *(_part(f"{name}.js") for name in SCRIPTS), "})();"])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # nothing is fetched, and only the page's own script runs
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    policy += "; base-uri 'none'; form-action 'none'"
    refresh = f'<meta http-equiv="refresh" content="{reload_seconds:g}">' if reload_seconds else ""
    parts = {
        "title": html.escape(", ".join(source.label for source in sources)),
        "policy": html.escape(policy, quote=True),
        "refresh": refresh,
        "style": _part("page.css"),
        "data": embedded(data),
        "script": script,
    }
    return filled(_part("page.html"), parts)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Put each part in its place, in one pass: a place that a part itself names stays text.

    Args:
        template: text with places such as `{{title}}`.
        parts: name -> text; characters that cannot be encoded, as of a folder's name, are replaced.
    """
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)
    return page.encode("utf-8", "replace").decode("utf-8")


def embedded(data: Any) -> str:
    """Return JSON in ASCII for the inside of a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(clean(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (files("trm_agent.report") / "page" / name).read_text(encoding="utf-8").replace("\r\n", "\n")
