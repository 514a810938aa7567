"""A drawing made to stand inside the page."""

from __future__ import annotations

import re
from html import escape

from local_shutdown.report.draw import COLOURS


def inline(svg: bytes, prefix: str, title: str, description: str) -> str:
    """An SVG to stand inside a page: its colours are the page's, its ids its own.

    Args:
        prefix: of every id, so that no two drawings of a page share one.
        title, description: read out instead of the drawing.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<title>.*?</title>|<desc>.*?</desc>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    text = text.replace("#ffffff", "none")  # the sheet: the page has its own
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"font: (bold |700 )?([\d.]+)px [^;\"]*", r"font: \1\2px var(--sans)", text)
    names = f'<title id="{prefix}-t">{escape(title)}</title>'
    names += f'<desc id="{prefix}-d">{escape(description)}</desc>'
    head = f'role="img" aria-labelledby="{prefix}-t {prefix}-d" class="figure"'
    return re.sub(r"<svg ([^>]*)>", rf"<svg {head} \1>{_literal(names)}", text, count=1)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")
