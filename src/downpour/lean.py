"""Faster start-up: imports Lightning without optional packages that are not used here."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = ("matplotlib", "scipy")


class LeanTorchmetrics(MetaPathFinder):
    """Lightning imports torchmetrics, which imports matplotlib and scipy.signal wherever they are installed: a third of
    the time that a start takes, for plots and audio scores. While it is imported it finds neither."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def execute_leanly(module: ModuleType) -> None:
                with _hidden():
                    execute(module)

            loader.exec_module = execute_leanly
        return spec


@contextmanager
def _hidden() -> Iterator[None]:
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    cache = imports.RequirementCache
    available, check = imports.package_available, cache._check_available

    def check_visible(requirement: Any) -> None:
        if requirement.requirement and requirement.requirement.startswith(UNUSED):
            requirement.available, requirement.message = False, "hidden by downpour.lean, for quicker starts"
        else:
            check(requirement)

    imports.package_available = lambda name: name not in UNUSED and available(name)
    cache._check_available = check_visible
    try:
        yield
    finally:
        imports.package_available, cache._check_available = available, check


def install() -> None:
    """Install the import hook, unless torchmetrics has been imported already."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, LeanTorchmetrics) for finder in sys.meta_path):
        sys.meta_path.insert(0, LeanTorchmetrics())
