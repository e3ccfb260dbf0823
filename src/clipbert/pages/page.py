"""Rendering of self-contained HTML pages, which a browser shows without a request."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

LAYOUT, COLORS, STYLES = "page.html.j2", "colors.css", "page.css"


def render_page(
    package: str, template: str, styles: tuple[str, ...] = (), script: str | None = None, **context: Any
) -> str:
    """Render a template that extends `page_layout` as a page with the shared styles.

    The content security policy of the page allows pictures in `data:` URLs and, by their hashes, its own style sheet
    and script, and nothing else. Style attributes and inline event handlers have no effect in it.

    Args:
        package: the package with the template and its files.
        template: the name of the template, which fills the blocks `title` and `content` of the layout.
        styles: names of style sheets in the package, added to the shared ones.
        script: the name of a script in the package, added at the end of the page.
        context: what the template shows; text is escaped.
    """
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(name, ".") for name in (package, "clipbert.pages")])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = "\n".join([colors(), _text("clipbert.pages", STYLES), *(_text(package, name) for name in styles)])
    code = "" if script is None else _text(package, script)
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'"
    if code:
        policy += f"; script-src '{_hash(code)}'"
    own = {"page_layout": LAYOUT, "page_style": style, "page_script": code, "page_policy": policy}
    return environment.get_template(template).render(**own, **context) + "\n"


def colors() -> str:
    """Return the style sheet that defines the colors of all pages, for pages with another layout."""
    return _text("clipbert.pages", COLORS)


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression that allows an inline style sheet or script with this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
