"""What tests of our images share: what a program imports, and what its image installs."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TypeGuard

from lakehouse.settings import PROJECT_ROOT

IMAGES = PROJECT_ROOT / "compose" / "images"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(image: str) -> set[str]:
    """The packages that an image lists, without their extras."""
    lines = (IMAGES / image / "packages.txt").read_text().splitlines()
    return {normal(line.partition("[")[0]) for line in lines if line and not line.startswith("#")}


def locked() -> set[str]:
    """The packages whose versions the lock holds."""
    lock = (PROJECT_ROOT / "requirements" / "dev.txt").read_text()
    return {normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}


def copied(image: str) -> list[str]:
    """The paths that an image takes from the project."""
    text = (IMAGES / image / "Dockerfile").read_text()
    lines = [line.split() for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)]
    return [source for line in lines for source in line[:-1]]


def imported_by(program: Path) -> tuple[set[str], set[str]]:
    """Our files that a program imports, through each other and wherever they do, and the modules of others."""
    waiting, seen, others = [str(program.relative_to(PROJECT_ROOT))], set[str](), set[str]()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            for module in _imports(path):
                if module.startswith("lakehouse"):
                    waiting += [file for file in [_ours(module)] if file]
                else:
                    others.add(module.partition(".")[0])
    return seen, others - sys.stdlib_module_names


def packages_of(modules: set[str]) -> set[str]:
    """The packages that bring these modules."""
    owners = packages_distributions()
    return {normal(owners[name][0]) for name in modules}


def _imports(path: str) -> set[str]:
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse((PROJECT_ROOT / path).read_text())]
    while waiting:
        node = waiting.pop()
        waiting += node.orelse if _for_types_only(node) else ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def _for_types_only(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _ours(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((f for f in (f"{path}.py", f"{path}/__init__.py") if (PROJECT_ROOT / f).is_file()), None)
