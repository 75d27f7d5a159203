"""Each step that lasts on a task's road has a failpoint before it; what has none stands here with its reason.

A step is a method of a port that writes to PostgreSQL, sends to Kafka or puts a file. Which methods write is read from
the repositories: they name their statements. Who takes a step, or hands its method on, must have awaited a failpoint
since the step before; a private function may leave that to everybody in its module who uses it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from libs.common.adapters.postgres.statements import load_statements
from libs.common.runtime.failpoints import FAILPOINTS

ROOT: Final = Path(__file__).parents[2]
REPOSITORIES: Final = ROOT / "libs/common/adapters/postgres"
SCHEMA: Final = REPOSITORIES / "migrations/versions"
#: Steps that are no statements, by port.
OTHER_STEPS: Final = {
    "Carrier": {"send"},
    "Topics": {"ensure"},
    "ResultStore": {"put"},
    "Poster": {"post"},
    "SealedPlace": {"replace"},  # its statements come as arguments
}

_ASK_AGAIN: Final = "administration: one transaction, its caller is told how it ended and can ask again"
_COMMAND: Final = "a command, whoever began it runs it again"
#: Steps without a failpoint, by module or module:function.
EXEMPT: Final = {
    "libs/common/operations/audit_database.py": f"repairs of `audit --fix`: {_COMMAND}",
    "libs/common/operations/control.py": _ASK_AGAIN,
    "libs/common/operations/keys.py": _ASK_AGAIN,
    "libs/common/operations/legacy_import.py": "the importer's failpoints stand in its adapter, around each commit",
    "libs/common/operations/presence.py": "what operators see of a process: the next beat says it anew",
    "libs/common/operations/quota.py": _ASK_AGAIN,
    "libs/common/operations/republish.py": f"events under ids that consumers know: {_COMMAND}",
    "libs/common/operations/webhooks.py": _ASK_AGAIN,
    "services/api/administration.py": _ASK_AGAIN,
    "services/api/console/sessions.py": "sign-in and sign-out: whoever got no answer signs in again",
    "services/dispatcher/publisher.py:publish": "dispatcher/after-lease is awaited in relay.py, between lease and send",
    "services/dispatcher/roads.py:_say": "how far a topic reaches: each dispatcher that sees the topic says it",
    "services/executor/reconcile.py": "a net: whoever dies there is rescued for its silence, with all that names it",
    "services/executor/uploads.py:_try": "executor/after-generated is awaited in execution.py, before uploads",
}

_WRITES: Final = re.compile(r"\b(INSERT INTO|DELETE FROM|UPDATE [a-z_]+)\b")
_FUNCTION: Final = re.compile(r"CREATE FUNCTION ([a-z_]+)\((?:(?!CREATE FUNCTION).)*?\$\$(.*?)\$\$", re.DOTALL)
_IMPLEMENTS: Final = re.compile(r"[Ii]mplements ports(?:_[a-z_]+)?\.([A-Za-z]+)(?: and ([A-Za-z]+))?")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Step(NamedTuple):
    """A mention of a port's method that writes."""

    module: Module
    node: ast.Attribute
    method: str  #: Port.method


class Module:
    """A parsed file, and who stands in what."""

    def __init__(self, file: Path) -> None:
        self.name = str(file.relative_to(ROOT))
        self.tree = ast.parse(file.read_text())
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> Function | None:
        return next((outer for outer in self.around(node) if isinstance(outer, Function)), None)

    def owner(self, node: ast.AST) -> ast.ClassDef | None:
        return next((outer for outer in self.around(node) if isinstance(outer, ast.ClassDef)), None)


MODULES: Final = [
    Module(file) for folder in ("services", "libs/common/operations") for file in sorted((ROOT / folder).rglob("*.py"))
]
CLASSES: Final = {
    (module.name, node.name): (module, node)
    for module in MODULES
    for node in ast.walk(module.tree)
    if isinstance(node, ast.ClassDef)
}


# which methods write


def writing_statements() -> set[str]:
    functions = {
        name
        for file in SCHEMA.glob("*.sql")
        for name, body in _FUNCTION.findall(file.read_text())
        if _WRITES.search(body)
    }
    return {
        name
        for name, text in load_statements().items()
        if _WRITES.search(text) or any(f"{function}(" in text for function in functions)
    }


def names_in(node: ast.AST) -> set[str]:
    """What is named: by itself, behind a dot, or in quotes; the columns of rows are not."""
    columns = {part.slice for part in ast.walk(node) if isinstance(part, ast.Subscript)}
    return {
        name
        for part in ast.walk(node)
        if not (part in columns and isinstance(part, ast.Constant))
        for name in (
            part.id if isinstance(part, ast.Name) else
            part.attr if isinstance(part, ast.Attribute) else
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else
            "",
        )
    }  # fmt: skip


def writers(tree: ast.Module, statements: set[str]) -> dict[str, set[str]]:
    """For each class the methods that name a writing statement or `copy`, themselves or through what they name."""
    marks = statements | {"copy"}
    shared = {
        target.id: names_in(node)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(target := node.target, ast.Name)
    }
    shared |= {node.name: names_in(node) for node in tree.body if isinstance(node, Function)}
    found = {}
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        methods = {node.name: names_in(node) for node in owner.body if isinstance(node, Function)}
        helpers = shared | {name: names for name, names in methods.items() if name.startswith("_")}
        writing = set()
        for name, names in methods.items():
            named, waiting = set(names), [*names]
            while waiting:
                more = helpers.get(waiting.pop(), set()) - named
                named |= more
                waiting += more
            if named & marks and not name.startswith("_"):
                writing.add(name)
        found[owner.name] = writing
    return found


def steps_by_port() -> dict[str, set[str]]:
    """The methods that write, by the name of their port: a repository's docstring says which it implements."""
    statements = writing_statements()
    ports: dict[str, set[str]] = defaultdict(set)
    for file in REPOSITORIES.glob("*.py"):
        tree = ast.parse(file.read_text())
        methods = writers(tree, statements)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and (said := _IMPLEMENTS.search(ast.get_docstring(node) or "")):
                for port in filter(None, said.groups()):
                    ports[port] |= methods[node.name]
    ports |= OTHER_STEPS
    return {
        node.name: writing
        for file in (ROOT / "libs/common").glob("ports*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
        and (writing := ports[node.name] & {part.name for part in node.body if isinstance(part, Function)})
    }


# who takes them


def annotation_of(module: Module, node: ast.expr) -> tuple[Module, ast.expr] | None:
    """What a name or an attribute is said to be, as far as annotations tell it."""
    if isinstance(node, ast.Name):
        for function in (outer for outer in module.around(node) if isinstance(outer, Function)):
            for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
                if argument.arg == node.id and argument.annotation is not None:
                    return module, argument.annotation
        return None
    if not isinstance(node, ast.Attribute):
        return None
    for home, owner in classes_of(module, node.value):
        for part in ast.walk(owner):
            if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) in (node.attr, f"self.{node.attr}"):
                return home, part.annotation
            if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == f"self.{node.attr}":
                return annotation_of(home, part.value)
    return None


def classes_of(module: Module, node: ast.expr) -> list[tuple[Module, ast.ClassDef]]:
    if isinstance(node, ast.Name) and node.id == "self":
        owner = module.owner(node)
        return [] if owner is None else [(module, owner)]
    said = annotation_of(module, node)
    if said is None:
        return []
    names = names_in(said[1])
    return [found for (_, name), found in CLASSES.items() if name in names]


def steps(ports: dict[str, set[str]]) -> Iterator[Step]:
    for module in MODULES:
        for node in ast.walk(module.tree):
            yield from steps_at(module, node, ports)


def steps_at(module: Module, node: ast.AST, ports: dict[str, set[str]]) -> Iterator[Step]:
    if isinstance(node, ast.Attribute) and any(node.attr in methods for methods in ports.values()):
        said = annotation_of(module, node.value)
        for port in names_in(said[1]) & ports.keys() if said is not None else ():
            if node.attr in ports[port]:
                yield Step(module, node, f"{port}.{node.attr}")


def is_struck(module: Module, node: ast.AST, ports: dict[str, set[str]], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a failpoint is awaited before, here or by all in this module who use what stands here."""
    function = module.function(node)
    if function is None:
        return False
    awaited = [part for part in ast.walk(function) if isinstance(part, ast.Await) and part.lineno < node.lineno]
    struck_at = max((part.lineno for part in awaited if _failpoint(part)), default=0)
    if any(struck_at < part.lineno and _takes(module, part, ports) for part in awaited):
        return False
    if struck_at:
        return True
    kept = next((outer for outer in module.around(node) if isinstance(outer, ast.Assign | ast.AnnAssign)), None)
    target = kept.targets[0] if isinstance(kept, ast.Assign) else kept.target if kept is not None else None
    if isinstance(target, ast.Attribute):
        name = target.attr  # a coalescer around it: who uses that takes the step
    elif function.name.startswith("_") and function.name != "__init__":
        name = function.name
    else:
        return False
    if name in seen:
        return True
    uses = [
        part
        for part in ast.walk(module.tree)
        if (part.attr if isinstance(part, ast.Attribute) else part.id if isinstance(part, ast.Name) else "") == name
        and part is not target
        and not isinstance(module.parents[part], ast.Tuple)
        and not (isinstance(module.parents[part], ast.Attribute) and module.parents[part].attr == "close")
    ]
    return bool(uses) and all(is_struck(module, use, ports, seen | {name}) for use in uses)


def _takes(module: Module, node: ast.Await, ports: dict[str, set[str]]) -> bool:
    """Whether this waits for a step, or for a function of this module that takes one."""
    called = node.value.func if isinstance(node.value, ast.Call) else None
    if called is None or any(steps_at(module, called, ports)):
        return called is not None
    name = called.attr if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "self" else ""
    homes = [part for part in ast.walk(module.tree) if isinstance(part, Function) and part.name == name]
    return any(any(steps_at(module, part, ports)) for home in homes for part in ast.walk(home))


def _failpoint(node: ast.Await) -> bool:
    call = node.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "failpoint"
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value in FAILPOINTS
    )


def test_the_repositories_methods_that_write_are_found() -> None:
    named = set().union(*(names_in(ast.parse(file.read_text())) for file in REPOSITORIES.glob("*.py")))
    assert not writing_statements() - named, "no repository names these"
    ports = steps_by_port()
    assert "lease_due" in ports["DispatchQueue"], "through a function of the schema"
    assert "drop" in ports["ReplayWork"], "through a table of names"
    assert "add_many" in ports["Operations"], "by COPY"
    taken = {step.method for step in steps(ports)}
    lost = {f"{port}.{name}" for port in ports for name in ports[port]} - taken
    assert not lost, "nobody is seen to take these: dead, or their ports are annotated nowhere"


def test_each_step_has_a_failpoint_or_a_reason() -> None:
    bare: dict[str, list[str]] = defaultdict(list)
    needed = set()
    ports = steps_by_port()
    for step in steps(ports):
        if not is_struck(step.module, step.node, ports):
            function = step.module.function(step.node)
            place = f"{step.module.name}:{function.name if function is not None else ''}"
            needed |= {step.module.name, place}
            if not EXEMPT.keys() & {step.module.name, place}:
                bare[place].append(f"{step.method}, line {step.node.lineno}")
    assert not bare, "await a failpoint before these"
    assert not EXEMPT.keys() - needed, "these have their failpoints, or are gone"
