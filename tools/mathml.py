"""Formulas as MathML, which browsers show by themselves: no script from the network."""

from docutils.utils.math.latex2mathml import tex2mathml


def html(tex: str, block: bool = False) -> str:
    """A formula in LaTeX as HTML; `block` gives it a line of its own."""
    return (
        f'<div class="math">{tex2mathml(tex, as_block=True)}</div>'
        if block
        else tex2mathml(tex)
    )
