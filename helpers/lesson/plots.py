"""How the lessons' figures look, and how they get into the page with a text for those
who cannot see them.
"""

import io

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ENGINES = {
    "scikit-learn": "#7f7f7f",
    "Spark MLlib": "#e25a1c",
    "MXNet": "#1a80bb",
    "SINGA": "#6f4fa0",
    "Ignite": "#d62839",
    "Mahout": "#2a9d5c",
}


def style() -> None:
    """One look for all figures; call it once at the top of a lesson."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update(
        {"figure.figsize": (8, 4), "figure.dpi": 80, "axes.titlelocation": "left"}
    )


def show(figure: Figure, alt: str) -> None:
    """Put the figure into the cell's output as a PNG with `alt` as its alternative
    text, and close it.
    """
    figure.tight_layout()
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight")
    plt.close(figure)
    display(Image(png.getvalue()), metadata={"image/png": {"alt": alt}})


def canvas(title: str, height: float) -> tuple[Figure, Axes]:
    """An empty drawing, `height` inches high; both coordinates go from 0 to 1."""
    figure, axis = plt.subplots(figsize=(12, height))
    axis.set(xlim=(0, 1), ylim=(0, 1), title=title)
    axis.axis("off")
    return figure, axis


def box(axis: Axes, x: float, y: float, text: str, face: str = "#f2f2f2") -> None:
    """A text in a box, both with their middle at (x, y)."""
    frame = {"boxstyle": "round,pad=0.5", "fc": face, "ec": "grey"}
    axis.text(x, y, text, ha="center", va="center", fontsize=10, bbox=frame)


def arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    gap: float,
) -> None:
    """An arrow between two points, with a text at its middle; it keeps `gap` points
    (1/72 inch) away from both.
    """
    line = {"arrowstyle": "->", "color": "black", "shrinkA": gap, "shrinkB": gap}
    axis.annotate("", end, start, arrowprops=line)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    white = {"fc": "white", "ec": "none", "pad": 1}
    axis.text(x, y, text, ha="center", va="center", fontsize=9, bbox=white)
