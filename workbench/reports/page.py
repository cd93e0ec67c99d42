"""`to_html`: an executed notebook as one HTML file that asks nothing of the network."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import plotly.io
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from workbench.files import LIVE, STYLE
from workbench.reports import head
from workbench.reports.contents import DATA, PLOTLY, Figure, figures, sections
from workbench.reports.inputs import read_notebook
from workbench.reports.results import MIME

WIDGET = "application/vnd.jupyter.widget-view+json"
FIRST = re.compile(r"<h([1-6])\b.*?</h\1>", re.DOTALL)  # heading
LOADS = {"src", "srcset", "poster", "data", "href", "xlink:href"}
NETWORK = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
CSS_LOAD = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)

# JupyterLab's look, without the scripts it takes from the network; code folded away. The
# policy has the browser refuse what a script might still try to load.
TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}
<meta http-equiv="Content-Security-Policy"
  content="default-src data: blob: 'unsafe-inline' 'unsafe-eval'">
{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_css -%}
{{ resources.include_css("static/theme-dark.css")
  | replace("<style type", '<style media="(prefers-color-scheme: dark)" type'|safe) }}
<style>
  :root { color-scheme: light dark; }
  @media (prefers-color-scheme: light) { body { /* 4.5 and more, where JupyterLab has less */
    --jp-mirror-editor-comment-color: #2f6868;
    --jp-mirror-editor-number-color: #060;
    --jp-mirror-editor-operator-color: #81c;
    --jp-mirror-editor-meta-color: #81c;
    --jp-cell-prompt-not-active-font-color: #555;
  } }
  @media (prefers-color-scheme: dark) { body {
    --jp-mirror-editor-comment-color: #7fb3b3;
    --jp-mirror-editor-operator-color: #c792ff;
    --jp-mirror-editor-meta-color: #c792ff;
  } }
  body { --jp-cell-prompt-not-active-opacity: 1; background: var(--wb-page); }
  main { max-width: 1000px; margin: 0 auto; padding: 1em; }
  main .jp-RenderedHTMLCommon a:any-link { text-decoration: underline; }
  details.code > summary { color: var(--wb-soft); cursor: pointer; font-size: 85%; }
  figure { margin: 1em 0; }
  figcaption { color: var(--wb-soft); font-size: 90%; }
  .wb-live { display: none; } /* what to press, where there is nothing to press */
</style>
{%- endblock -%}
{%- block body_header -%}<body class="jp-Notebook">
<main>{%- endblock -%}
{%- block input_group -%}
{%- if cell.source -%}
<details class="code">
<summary>Code{% if cell.execution_count %} [{{ cell.execution_count }}]{% endif %}</summary>
{{ super() }}
</details>
{%- endif -%}
{%- endblock -%}
"""


def to_html(notebook: str | Path | NotebookNode, *, folder: str | Path | None = None) -> str:
    """The page of an executed notebook: one HTML document with everything inside.

    Below the title, which is the notebook's first heading, stand what came out, on what it was
    found, the figure of the cell tagged `headline` (else the first), and the contents. Plotly
    figures are live; their alternative text is `fig.layout.meta["alt"]`, else the title. Widgets
    show their static twin, parameters their values. Code is folded; formulas stay as TeX.
    folder: where pictures named in markdown cells are, by default beside the notebook.

    Raises:
        FileNotFoundError, ValueError: no such notebook, or not a notebook.
        ValueError: something on the page would be loaded from the network.
    """
    if isinstance(notebook, (str, Path)):
        folder = folder or Path(notebook).absolute().parent
        notebook = read_notebook(notebook)
    static = _static(notebook)
    headings = [section["title"] for section in sections(notebook)]
    static.metadata.title = headings[0] if headings else "Report"
    exporter = HTMLExporter(raw_template=TEMPLATE, embed_images=True, exclude_anchor_links=True)
    html, _ = exporter.from_notebook_node(static, {"metadata": {"path": str(folder or "")}})
    html = html.replace("</head>", f"<style>{STYLE.read_text()}</style>\n</head>", 1)
    html = _with_head(html, head.head(notebook, _picture(notebook)))
    scan = _Scan()
    scan.feed(html)
    if scan.found:
        raise ValueError(
            f"the page would load {', '.join(scan.found)} from the network; "
            "put the content into the notebook instead"
        )
    if "Plotly.newPlot(" in html:
        html = html.replace("</head>", f"<script>{get_plotlyjs()}</script>\n</head>", 1)
    if "data-drag=" in html or "data-map=" in html:
        script = f'<script type="module">{LIVE}</script>'
        html = html.replace("</head>", f"{script}\n</head>", 1)
    return html


def _with_head(html: str, made: str) -> str:
    """The page with a head below its title, and the contents below that."""
    listed, html = head.contents(html)
    title = FIRST.search(html)
    at = title.end() if title and title[1] == "1" else html.index("<main>") + len("<main>")
    return f"{html[:at]}\n{made}{listed}{html[at:]}"


def _picture(notebook: NotebookNode) -> str:
    """The figure at the head, once more."""
    chosen = head.headline(notebook, figures(notebook))
    if chosen is None:
        return ""
    html = _figure(replace(chosen, id="headline"))
    return f'<div class="wb-headline">{head.dragged(html)}</div>'


def _static(notebook: NotebookNode) -> NotebookNode:
    """A copy whose outputs a browser can show without a kernel."""
    static = copy.deepcopy(notebook)
    static.metadata.pop("widgets", None)
    head.once(static)
    for cell in static.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if MIME not in o.get("data", {})]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
    for figure in figures(static):
        figure.output.data = {"text/html": _figure(figure)}
    return static


def _figure(figure: Figure) -> str:
    """A figure as HTML: of a chart with alternative text and caption."""
    data, alt = figure.output.data, escape(figure.alt)
    if "text/html" in data and PLOTLY not in data:
        return f'<span id="{figure.id}"></span>{data["text/html"]}'
    if PLOTLY not in data:
        known = figure.output.get("metadata", {}).get("image/png", {})
        size = "".join(f' {side}="{known[side]}"' for side in ("width", "height") if side in known)
        image = f'<img alt="{alt}"{size} src="{DATA}{figure.pictures[0][1]}">'
        return f'<span id="{figure.id}"></span>{image}'
    drawing = plotly.io.to_html(
        data[PLOTLY],
        config={"displaylogo": False},
        include_plotlyjs=False,
        full_html=False,
        default_height=450,
        validate=False,
        div_id=figure.id,
    )
    # Without words of its own the alternative text is the title, which is in the drawing.
    has_words = bool(data[PLOTLY].get("layout", {}).get("meta"))
    caption = f"<figcaption>{alt}</figcaption>" if has_words else ""
    return f'<figure aria-label="{alt}">{drawing}{caption}</figure>'


class _Scan(HTMLParser):
    """Collects what a browser would fetch, apart from what scripts ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_link = tag in ("a", "area") and name == "href"
            if name in LOADS and not is_link and NETWORK.match(value or ""):
                self.found.append(f"<{tag} {name}={value!r:.100}>")
            elif name == "style":
                self.found += CSS_LOAD.findall(value or "")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.found += CSS_LOAD.findall(data)
