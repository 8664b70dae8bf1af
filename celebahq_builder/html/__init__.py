"""HTML pages: rendering of templates; charts and thumbnails in modules of their own."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import jinja2
import markupsafe

from celebahq_builder.html import charts
from celebahq_builder.progress import size


def render_page(name: str, contents: Mapping[str, object]) -> bytes:
    """Render a template of this package as a UTF-8 page; characters that UTF-8 cannot hold are escaped.

    Every page extends ``page.html.j2`` and shares its style sheet and its script; a browser runs no other script,
    because the page names the hash of this one. Equal contents give equal bytes.

    Args:
        contents: variables of the template. ``chart`` (`html.charts`) and the filters ``size`` and ``duration`` are
            added. A page with ``refresh_s`` is loaded again after so many seconds.
    """
    return _pages().get_template(name).render(chart=charts, **contents).encode("utf-8", "backslashreplace")


@functools.cache
def _pages() -> jinja2.Environment:
    """Return the templates; each is compiled once, because a training writes its page again and again."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("celebahq_builder.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = resources.files("celebahq_builder.html").joinpath("templates/page.js").read_text(encoding="ascii")
    script_sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pages.globals.update(script=markupsafe.Markup(script), script_sha256=script_sha256)
    pages.filters.update(size=size, duration=duration)
    return pages


def link(path: Path, page: Path) -> str:
    """Return the address of a file relative to a page.

    >>> link(Path("run/images/a b.png"), Path("run/report/index.html"))
    '../images/a%20b.png'
    """
    return quote(os.fsencode(os.path.relpath(path, page.parent)))


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(125), duration(7260)
    ('2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
