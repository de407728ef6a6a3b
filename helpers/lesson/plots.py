"""How the lessons' figures look, and how they get into the page with a text for those
who cannot see them.
"""

import io

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Image, display
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
