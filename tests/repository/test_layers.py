"""The import order: modules import from their own folder and from the lines above it, without circles."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = {
    "redis_store": [
        {"errors", "types", "stats", "options"},
        {"server_config"},
        {"limits", "mapping", "server"},
        {"settings", "values"},
        {"namespace", "memo"},
        {"protocol"},
        {"scripts", "flows", "connections"},
        {"ops"},
        {"near"},
        {"drivers"},
        {"changelog", "locks", "sequence", "transaction"},
        {"hub"},
        {"watch"},
        {"store"},
        {"operations"},
        {"aio"},
        {"clients", "brokers"},
        {"admin"},
        {"__init__"},
        {"integrations"},
        {"console"},
        {"cli"},
        {"testing", "__main__"},
    ],
    "sandbox": [
        {"errors", "protocol", "masking"},
        {"limits", "permissions", "result", "kept_runs", "child"},
        {"agent"},
        {"isolation", "record", "trace"},
        {"given"},
        {"running"},
        {"host", "handle"},
        {"pool"},
        {"runner"},
        {"consumers"},
        {"cli", "__init__"},
        {"pytest_plugin", "__main__"},
    ],
}
"""The modules and folders of each package. A line may import the lines above it; parts on one line do not import each other."""

MOST_PARTS_AT_THE_TOP = 16
"""Modules at the top level of a package; a part of the design is a folder."""

WITHOUT_IO = {"values", "namespace", "protocol", "flows", "ops", "changelog", "hub", "watch", "admin"}
"""Folders of `redis_store` that decide and do no I/O."""

WITH_IO = {
    "flows.clock",
    "flows.run_sync",
    "flows.run_async",
    "flows.renewing",
    "hub.run_hub",
    "watch.sync",
    "watch.aio",
    "admin.follow_async",
    "admin.follow_sync",
    "admin.operator",
    "admin.sync",
    "admin.aio",
}
"""The modules in them that carry decisions out."""

IO = {"socket", "asyncio", "threading", "time", "redis", "select", "ssl"}

BELOW_THE_API = {
    "__init__",
    "errors",
    "types",
    "options",
    "limits",
    "server",
    "brokers",
    "values",
    "namespace",
    "flows",
    "testing",
    "cli",
}
"""What `sandbox` may import of `redis_store`; the agent process may import what `boot.SHARED` lists instead."""

CONSOLE_COMMAND = "redis_store.cli.ui"
"""The only module that imports the console, when the command runs."""

FOR_THE_CONSOLE = {"errors", "masking", "permissions", "result", "record"}
"""What the console may import of `sandbox`: how secrets are masked, what an agent may see, and what a run was."""


@cache
def modules() -> dict[str, Path]:
    """Return the files of all modules by their dotted names."""
    found = {}
    for package in LAYERS:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> Iterator[tuple[str, str | None]]:
    """Yield each module of ours that a module imports, type-only imports included, with the name taken from it."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules():
                    yield f"{node.module}.{alias.name}", None
                elif node.module in modules():
                    yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules():
                    yield alias.name, None


def part_of(module: str) -> tuple[str, str]:
    """Return a module's package and the module or folder at its top level."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0] or "__init__"


def layer_of(module: str) -> int:
    package, part = part_of(module)
    for number, layer in enumerate(LAYERS[package]):
        if part in layer:
            return number
    raise AssertionError(f"{module} has no place in LAYERS: add {part!r} to a line.")


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_one_way(module: str) -> None:
    wrong = [
        name
        for name, _ in imports_of(module)
        if part_of(name)[0] == part_of(module)[0]
        and part_of(name) != part_of(module)
        and layer_of(name) >= layer_of(module)
    ]
    assert not wrong, f"{module} may not import {wrong}, which is on its own line of LAYERS or below it"


def test_no_circular_imports() -> None:
    graph = {module: {name for name, _ in imports_of(module)} - {module} for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle of imports: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", sorted(modules()))
def test_private_names_stay_in_their_module(module: str) -> None:
    wrong = [
        f"{source}.{name}"
        for source, name in imports_of(module)
        if name is not None and name.startswith("_") and not name.startswith("__")
    ]
    assert not wrong, f"{module} imports {wrong}: take the underscore away, or do without"


@pytest.mark.parametrize("module", sorted(modules()))
def test_modules_without_io_import_no_io(module: str) -> None:
    package, _, rest = module.partition(".")
    if package != "redis_store" or rest.partition(".")[0] not in WITHOUT_IO or rest in WITH_IO:
        return
    imported = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & IO, f"{module} decides and does no I/O, and imports {imported & IO}"


@pytest.mark.parametrize("module", sorted(name for name in modules() if name.startswith("sandbox")))
def test_sandbox_reaches_the_store_through_brokers(module: str) -> None:
    shared = {f"{package}.{name}" for package, names in shared_with_agents().items() for name in names}
    in_agent = module in shared or module == "sandbox.child.boot"
    for name, _ in imports_of(module):
        package, part = part_of(name)
        if package != "redis_store":
            continue
        if in_agent:
            assert name in shared or is_for_types_only(module, name), f"{module} runs in agents, where {name} is not"
        else:
            assert part in BELOW_THE_API, f"{module} may not import {name}: go through redis_store.brokers"


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.startswith("redis_store.console")))
def test_only_the_command_imports_the_console(module: str) -> None:
    wrong = [name for name, _ in imports_of(module) if part_of(name) == ("redis_store", "console")]
    assert not wrong or module == CONSOLE_COMMAND, f"{module} imports {wrong}, whose packages are those of an extra"


def test_console_takes_little_of_the_sandbox() -> None:
    for module in modules():
        if module.startswith("redis_store.console"):
            taken = {part_of(name)[1] for name, _ in imports_of(module) if part_of(name)[0] == "sandbox"}
            assert taken <= FOR_THE_CONSOLE, f"{module} imports {taken} of sandbox"


def is_for_types_only(module: str, name: str) -> bool:
    """Whether a module imports another one for type checkers only."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return any(isinstance(inner, ast.ImportFrom) and inner.module == name for inner in node.body)
    return False


def shared_with_agents() -> dict[str, tuple[str, ...]]:
    from sandbox.child.boot import SHARED

    return SHARED


def test_server_does_not_import_stores() -> None:
    for module in modules():
        if module.startswith("redis_store.server."):
            others = {part_of(name)[1] for name, _ in imports_of(module)} - {"server"}
            assert others <= {"errors", "server_config"}, f"{module} imports {others}"


@pytest.mark.parametrize("package", LAYERS)
def test_few_modules_at_the_top(package: str) -> None:
    parts = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__main__"]
    assert len(parts) <= MOST_PARTS_AT_THE_TOP, f"{package} has {len(parts)} modules at its top: {sorted(parts)}"


@pytest.mark.parametrize("package", LAYERS)
def test_class_names_are_unique(package: str) -> None:
    places = defaultdict(list)
    for module in modules():
        if part_of(module)[0] == package:
            for node in tree_of(module).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(module)
    assert not {name: where for name, where in places.items() if len(where) > 1}


@pytest.mark.parametrize("package", LAYERS)
def test_constants_of_one_name_have_one_value(package: str) -> None:
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for module in modules():
        if part_of(module)[0] != package:
            continue
        for node in tree_of(module).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and value is not None and len(target.id) > 2 and target.id.isupper():
                values[target.id.strip("_")][module] = ast.unparse(value)
    wrong = {name: places for name, places in values.items() if len(set(places.values())) > 1}
    assert not wrong, f"constants that share a name and differ: {wrong}"


def test_every_folder_has_a_docstring() -> None:
    for package in LAYERS:
        for folder in (ROOT / package).rglob("__init__.py"):
            assert ast.get_docstring(ast.parse(folder.read_text())), f"{folder.relative_to(ROOT)} has no docstring"
