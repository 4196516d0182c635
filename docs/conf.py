"""The site: pages of this folder, examples that are run, and a reference made of the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import BaseModel
from sphinx_gallery.scrapers import figure_rst

import semantoks
from semantoks.benchmark.plan import StudyPlan
from semantoks.training.config import Configuration

HERE = Path(__file__).parent
project, author = "semantoks", "the semantoks developers"
copyright = "2026, the semantoks developers"
version = release = semantoks.__version__

extensions = [
    "cyclopts.ext.sphinx",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/README.rst"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]

html_theme = "pydata_sphinx_theme"
html_title = "semantoks"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say them
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def take_figures(_block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures that a block has drawn; ours never go through pyplot."""
    paths, known = [], block_vars["example_globals"]
    for name in [name for name, value in known.items() if isinstance(value, Figure)]:
        path = next(block_vars["image_path_iterator"])
        known.pop(name).savefig(path, dpi=120)
        paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])


sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "image_scrapers": (take_figures,),
    "copyfile_regex": r".*\.rst",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
}


def configuration_page() -> str:
    """Write the keys of recipes and plans down, as their models describe them."""
    parts = [
        "# Keys of recipes and plans\n",
        "## Recipes of `pretrain`\n",
        "For `--set section.key=value`, YAML files and `sk.configure`.\n",
        *_keys(Configuration),
        "\n## Plans of `evaluate`\n",
        "What each does is said in [evaluation](../evaluation.md).\n",
        *_keys(StudyPlan),
    ]
    return "\n".join(parts) + "\n"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Write a row a key."""
    yield "| key | default | what |\n|---|---|---|"
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for key, part in inner.model_fields.items():
                yield _row(f"{name}.{key}", part)
        else:
            yield _row(name, field)


def _row(name: str, field: Any) -> str:
    """Write one key."""
    default = "needed" if field.is_required() else field.get_default(call_default_factory=True)
    text = str(default) if len(str(default)) < 60 else "see the code"
    return f"| `{name}` | `{text}` | {field.description or ''} |".replace("\n", " ")


def write_reference(_: Any) -> None:
    """Write what is made of the code, before the pages are read."""
    folder = HERE / "reference"
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    changes = (HERE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    (folder / "changelog.md").write_text(changes.replace("](docs/", "](../"), encoding="utf-8")


def skip_metadata_routing(
    _app: Any, _what: str, name: str, _obj: Any, skip: bool, _options: Any
) -> bool:
    """Leave out what scikit-learn adds to every estimator."""
    return skip or name.endswith("_request") or name == "get_metadata_routing"


def setup(app: Any) -> None:
    """Join what is done while the site is made."""
    sys.setrecursionlimit(5000)
    app.connect("builder-inited", write_reference, priority=100)
    app.connect("autodoc-skip-member", skip_metadata_routing)
