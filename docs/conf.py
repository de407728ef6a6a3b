"""How Sphinx makes the site (make site): stored outputs, no network, mathematics as MathML."""

from docutils.utils.math.latex2mathml import tex2mathml

project = "Machine learning with the Apache ecosystem"
html_title = "ML with the Apache ecosystem"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["downloads"]
nb_execution_mode = "off"
nb_code_prompt_show = "Show the solution"  # solutions are the only cells that are hidden
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def inline_math(translator, node):
    translator.body.append(tex2mathml(node.astext()))


def block_math(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')


def nothing(translator, node):
    pass


def skip_children(visit):
    from docutils.nodes import SkipNode

    def visit_and_skip(translator, node):
        visit(translator, node)
        raise SkipNode

    return visit_and_skip


def setup(app):
    app.add_html_math_renderer("mathml", (skip_children(inline_math), nothing), (skip_children(block_math), nothing))


html_math_renderer = "mathml"
