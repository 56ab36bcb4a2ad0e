"""Sphinx configuration: `sphinx-build -W -b html docs docs/_build`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# The API reference is read from the code, whose models need a project; nothing connects to a database.
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
django.setup()

project = "pg_tenants"
author = "The authors of pg_tenants"
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "pg_tenants"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"
napoleon_use_ivar = True
napoleon_use_rtype = False
