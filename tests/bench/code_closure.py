"""Which modules a definition uses: imports followed by name, without running anything.

``from ..analysis import list_kernels`` leads to the module that defines ``list_kernels`` and to
what it uses itself, not to everything that its package imports. A definition uses the names in it,
those of functions inside it included; annotations do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

PACKAGE = "smartmem_tvm"


class Closure:
    """Modules, by their dotted names below the package, that definitions use.

    Parameters
    ----------
    files
        Source files of the package by path: their dotted names below it.
    ends
        Modules and packages that are not followed, nor counted.
    """

    def __init__(self, files: dict[Path, str], ends: Collection[str] = ()) -> None:
        self._paths = {name: path for path, name in files.items() if path.suffix == ".py"}
        self._ends = ends
        self._modules: dict[str, _Module] = {}
        self._seen: set[tuple[str, str]] = set()
        self.modules: set[str] = set()

    def add(self, module: str, name: str) -> None:
        """Follow a definition, or the name under which a module imports one."""
        if any(module == end or module.startswith(f"{end}.") for end in self._ends):
            return
        if (module, name) in self._seen:
            return
        self._seen.add((module, name))
        known = self._read(module)
        if name in known.imports:
            self._follow(*known.imports[name], ())
            return
        if name not in known.definitions:
            raise LookupError(f"module {module} has no {name}")
        if module not in self.modules:
            self.modules.add(module)
            for statement in known.statements:  # they run with whatever is used of the module
                self._use(known, statement)
        for node in known.definitions[name]:
            self._use(known, node)

    def _use(self, module: _Module, node: ast.AST) -> None:
        imports = {**module.imports, **dict(_imports(node, module))}
        attributes: dict[str, set[str]] = {}
        names = set()
        for child in _without_annotations(node):
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
                attributes.setdefault(child.value.id, set()).add(child.attr)
            elif isinstance(child, ast.Name):
                names.add(child.id)
        for name in names:
            if name in imports:
                self._follow(*imports[name], attributes.get(name, ()))
            elif name in module.definitions:
                self.add(module.name, name)

    def _follow(self, base: str, name: str | None, attributes: Collection[str]) -> None:
        """Follow ``from base import name``; of a module, its attributes that are used."""
        inner = ".".join(word for word in (base, name) if word)
        found = next((n for n in (inner, f"{inner}.__init__".strip(".")) if n in self._paths), None)
        if found is not None and (name is None or not self._defines(base, name)):
            for attribute in attributes:
                self.add(found, attribute)
        elif name is not None:
            self.add(base if base in self._paths else f"{base}.__init__".strip("."), name)

    def _defines(self, base: str, name: str) -> bool:
        module = base if base in self._paths else f"{base}.__init__".strip(".")
        known = self._read(module)
        return name in known.definitions or name in known.imports

    def _read(self, module: str) -> _Module:
        if module not in self._modules:
            self._modules[module] = _Module(module, self._paths[module].read_text("utf-8"))
        return self._modules[module]


class _Module:
    """Definitions of a module, what it imports, and the statements that are neither."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.statements: list[ast.stmt] = []
        self.imports: dict[str, tuple[str, str | None]] = {}
        for statement in ast.parse(text).body:
            targets = list(_targets(statement))
            for target in targets:
                self.definitions.setdefault(target, []).append(statement)
            if isinstance(statement, ast.Import | ast.ImportFrom) or _is_for_types(statement):
                self.imports.update(_imports(statement, self))
            elif not targets:
                self.statements.append(statement)

    @property
    def package(self) -> list[str]:
        """Words of the package that relative imports start from."""
        return self.name.split(".")[:-1]


def _targets(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (
                node.id
                for node in ast.walk(target)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            )


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def _imports(node: ast.AST, module: _Module) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Name bound by each import of the package inside a node: (module below it, name in that)."""
    for child in ast.walk(node):
        if not isinstance(child, ast.ImportFrom):
            continue
        base = (child.module or "").split(".") if child.module else []
        if child.level:
            above = module.package[: len(module.package) - child.level + 1]
            base = [*above, *base]
        elif base[:1] == [PACKAGE]:
            base = base[1:]
        else:
            continue
        for alias in child.names:
            yield alias.asname or alias.name, (".".join(base), alias.name)


def _without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _without_annotations(child)
