"""Settings of Sphinx, which builds these pages: `make docs`."""

from importlib.metadata import version as installed

project = "tgt-ray"
author = "the tgt-ray authors"
copyright = "the tgt-ray authors"
release = version = installed("tgt-ray")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# The anchors that GitHub makes of headings, so that links work in both places.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = f"tgt-ray {release}"
# Nothing is fetched from elsewhere: the pages can be read offline.
html_theme_options = {"source_repository": "", "source_branch": ""}
