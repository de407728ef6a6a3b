"""An executed lesson as one HTML file that loads nothing: no script, style, font or
formula comes from anywhere else.
"""

from pathlib import Path

from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from helpers import files
from tools import mathml

# nbconvert's template asks other hosts for require.js, MathJax and mermaid. What the
# policy does not name, a browser does not load, whatever an output asks for.
TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
{%- endblock html_head_js -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
"""


class _Renderer(IPythonRenderer):
    """Markdown whose formulas are MathML."""

    def block_math(self, body: str) -> str:
        return mathml.html(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml.html(body)


class LessonExporter(HTMLExporter):
    """nbconvert's page with formulas as MathML and without scripts of other hosts."""

    @pass_context
    def markdown2html(self, _context, source):
        renderer = _Renderer(escape=False, anchor_link_text=self.anchor_link_text)
        return MarkdownWithMath(renderer=renderer).render(source)


def to_html(notebook: Path, page: Path) -> None:
    """Render an executed lesson as one HTML file."""
    exporter = LessonExporter(raw_template=TEMPLATE)
    html, _ = exporter.from_filename(str(notebook))
    files.write_text(page, html)
