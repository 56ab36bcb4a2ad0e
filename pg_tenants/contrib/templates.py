"""Templates that a tenant has in the place of the project's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from django.template import Engine, Origin, Template
from django.template.exceptions import TemplateDoesNotExist
from django.template.loaders.filesystem import Loader as FileSystemLoader

from pg_tenants.contrib._folder import folder
from pg_tenants.exceptions import ConfigurationError

__all__ = ["Loader"]


class Loader(FileSystemLoader):
    """Looks for a template in the active schema's folder, ``<dir>/<schema>/``; the loaders behind it do for the rest.

    It keeps what it has compiled until the file changes, so it goes before Django's cached loader and not into it.

    Args:
        engine: the template engine, given by Django.
        dirs: folders with a folder for each schema in them.

    Raises:
        ConfigurationError: it is inside another loader, which would serve one tenant's template to all.
    """

    def __init__(self, engine: Engine, dirs: list[str | Path]):
        super().__init__(engine, dirs)
        self._compiled: dict[str, tuple[tuple[int, int], Template]] = {}

    def get_template_sources(self, template_name: str) -> Iterator[Origin]:
        """Yield where the active schema may have the template."""
        if self not in self.engine.template_loaders:
            raise ConfigurationError(
                "TEMPLATES has the loader of pg_tenants inside another one, such as Django's cached loader, which "
                "would serve one tenant's template to all. Put it into OPTIONS['loaders'] itself, before that one."
            )
        schema = folder()
        if schema is None:
            return
        here = FileSystemLoader(self.engine, [Path(root) / schema for root in self.get_dirs()])
        for origin in here.get_template_sources(template_name):
            yield Origin(origin.name, template_name, self)

    def get_template(self, template_name: str, skip: list[Origin] | None = None) -> Template:
        """Return the active schema's template.

        Raises:
            TemplateDoesNotExist: it has none of this name, apart from those to skip.
        """
        tried = []
        for origin in self.get_template_sources(template_name):
            if skip is not None and origin in skip:
                tried.append((origin, "Skipped to avoid recursion"))
                continue
            try:
                return self._compile(origin)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                tried.append((origin, "Source does not exist"))
        raise TemplateDoesNotExist(template_name, tried=tried)

    def reset(self) -> None:
        """Forget what was compiled."""
        self._compiled.clear()

    def _compile(self, origin: Origin) -> Template:
        path = Path(origin.name)
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        known = self._compiled.get(origin.name)
        if known is None or known[0] != state:
            contents = path.read_text(encoding=self.engine.file_charset)
            known = (state, Template(contents, origin, str(origin.template_name), self.engine))
            self._compiled[origin.name] = known
        return known[1]
