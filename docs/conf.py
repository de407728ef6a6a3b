"""How Sphinx makes the site (make site): stored outputs, no network, mathematics as
MathML.
"""

from docutils.nodes import SkipNode

from tools import mathml

project = "Machine learning with the Apache ecosystem"
html_title = "ML with the Apache ecosystem"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["downloads"]
nb_execution_mode = "off"
nb_code_prompt_show = (  # solutions are the only cells that are hidden
    "Show the solution"
)
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"
# unknown languages stay plain; levels may be skipped
suppress_warnings = ["misc.highlighting_failure", "myst.header"]
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_favicon = "favicon.svg"


def formula(block):
    def visit(translator, node):
        translator.body.append(mathml.html(node.astext(), block))
        raise SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", formula(block=False), formula(block=True))
