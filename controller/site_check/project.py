"""The files of a Django project, its modules and its settings, read and never imported."""

import ast
import dataclasses
import functools
import pathlib
import posixpath
import re
from collections.abc import Iterator, Sequence

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
DEVELOPMENT = ("local", "dev", "development", "debug", "test", "testing", "ci")
PRODUCTION = ("production", "prod", "live", "deploy")


def by_depth(name: str) -> tuple[int, str]:
    """The order of files: those that are nearer to the top first."""
    return name.count("/"), name


@dataclasses.dataclass(frozen=True)
class Project:
    """A project in its source.

    root: the directory of the source; names: the files that a release would have, relative to root; directory: where the project is.
    """

    root: pathlib.Path
    names: frozenset[str]
    directory: str = ""

    @property
    def path(self) -> pathlib.Path:
        """The directory of the project."""
        return self.root / self.directory

    @functools.cached_property
    def files(self) -> list[str]:
        """The files of the project, relative to its directory, those that are nearer to it first."""
        start = f"{self.directory}/" if self.directory else ""
        return sorted((name[len(start) :] for name in self.names if name.startswith(start)), key=by_depth)

    def has(self, name: str) -> bool:
        """Whether there is a file; name: relative to the directory of the project, as ../requirements.txt."""
        return posixpath.normpath(posixpath.join(self.directory, name)) in self.names

    def text(self, name: str) -> str:
        """The content of a file; empty where there is none."""
        return (self.path / name).read_text(encoding="utf-8", errors="replace") if self.has(name) else ""

    def named(self, pattern: str) -> list[str]:
        """The files whose whole name, with their directories, matches a regular expression."""
        return [name for name in self.files if re.fullmatch(pattern, name)]

    def tree(self, name: str) -> ast.Module:
        """The syntax of a file of Python; empty where it cannot be parsed."""
        try:
            return ast.parse(self.text(name))
        except (SyntaxError, ValueError):  # of another version of Python, or a template of a file
            return ast.Module(body=[], type_ignores=[])

    def module_file(self, module: str) -> str:
        """The file of a module; empty where the project has none."""
        path = module.replace(".", "/")
        return next((name for name in (f"{path}.py", f"{path}/__init__.py") if self.has(name)), "")

    def has_top(self, module: str) -> bool:
        """Whether the first package of a module is one of the project's own."""
        top = module.partition(".")[0]
        return any(name == f"{top}.py" or name.startswith(f"{top}/") for name in self.files)


def module_of(name: str) -> str:
    """The module of a file: shop/settings/__init__.py is shop.settings."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def project_directories(project: Project) -> list[str]:
    """Where projects are in a source: directories of a manage.py, those that are nearer to the top first."""
    return [
        posixpath.dirname(name)
        for name in project.named(r"(.*/)?manage\.py")
        if "execute_from_command_line" in project.text(name) or "DJANGO_SETTINGS_MODULE" in project.text(name)
    ]


# ------------------------------------------------------------------ modules


def strings(node: ast.AST) -> list[str]:
    """The texts that are written in an expression."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def default_settings(tree: ast.Module) -> str:
    """The settings module that a manage.py or wsgi.py sets; empty where it is not written there."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and node.args and strings(node.args[0]) == ["DJANGO_SETTINGS_MODULE"]:
            values = node.args[1:]
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Subscript) and strings(target.slice) == ["DJANGO_SETTINGS_MODULE"]
            for target in node.targets
        ):
            values = [node.value]
        for text in [text for value in values for text in strings(value)]:
            if MODULE.fullmatch(text) and "." in text:
                return text
    return ""


def wsgi_files(project: Project) -> list[str]:
    """Modules that define `application`."""
    return [name for name in project.named(r"(.*/)?wsgi\.py") if "application" in project.text(name)]


def settings_module(project: Project) -> tuple[str, str]:
    """(the settings module that the project names, the file that names it); empty where none does.

    The module for production is preferred to one for development beside it.
    """
    sources = [*wsgi_files(project), *project.named(r"manage\.py")]
    named = [(module, name) for name in sources if (module := default_settings(project.tree(name)))]
    if not named:
        files = project.named(r"(.*/)?settings(/\w+)?\.py")
        named = [(module_of(name), name) for name in files if "INSTALLED_APPS" in project.text(name)]
    for module, name in named:
        package, _dot, last = module.rpartition(".")
        if last in DEVELOPMENT or package.endswith("settings"):
            others = [f"{package}.{other}" for other in (*PRODUCTION, last)]
        else:
            others = [f"{module}.{other}" for other in PRODUCTION]
        beside = next((other for other in others if last not in PRODUCTION and project.module_file(other)), "")
        return (beside, project.module_file(beside)) if beside not in ("", module) else (module, name)
    return "", ""


def wsgi_module(project: Project, settings: "Settings") -> str:
    """The module that defines `application`; empty where there is none."""
    for text in settings.strings("WSGI_APPLICATION"):
        module = text.rpartition(".")[0]
        if project.module_file(module):
            return module
    return next((module_of(name) for name in wsgi_files(project)), "")


# ------------------------------------------------------------------ settings


class Settings:
    """What settings modules assign, in the order of their imports.

    files: those that were read; values: {name: the expressions that it gets}; needed: environment variables without a default.
    """

    def __init__(self, project: Project, module: str) -> None:
        self.project = project
        self.files: list[str] = []
        self.values: dict[str, list[ast.expr]] = {}
        self.needed: dict[str, str] = {}  # {variable: how it is read}
        defaults: set[str] = set()
        self.read(project.module_file(module), defaults)
        for name in defaults:
            self.needed.pop(name, None)

    def read(self, name: str, defaults: set[str]) -> None:
        """Read a file, and first those that it takes everything from. defaults: gets the variables that have one."""
        if not name or name in self.files:
            return
        self.files.append(name)
        tree = self.project.tree(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                self.read(self.project.module_file(imported_module(node, name)), defaults)
        for node in ast.walk(tree):
            for target, value in assignments(node):
                self.values.setdefault(target, []).append(value)
            self.needed.update(needed_variables(node))
            if isinstance(node, ast.Call) and callee(node) == "Env":  # Env(DEBUG=(bool, False))
                defaults.update(keyword.arg for keyword in node.keywords if keyword.arg)

    def strings(self, *names: str) -> list[str]:
        """The texts in the values of settings."""
        return [text for name in names for value in self.values.get(name, []) for text in strings(value)]

    def true(self, name: str) -> bool:
        """Whether a setting is True where it is set last."""
        values = self.values.get(name, [])
        return bool(values) and isinstance(values[-1], ast.Constant) and values[-1].value is True


def imported_module(node: ast.ImportFrom, name: str) -> str:
    """The module that a statement in a file imports from."""
    parts: Sequence[str] = module_of(name).split(".")
    if not node.level:
        return node.module or ""
    package = parts if name.endswith("__init__.py") else parts[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def assignments(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(setting, value) of a statement: X = …, X += …, X["default"] = …"""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
        targets, value = [node.target], node.value
    else:
        return
    for target in targets:
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name) and target.id.isupper():
            yield target.id, value


def callee(node: ast.Call) -> str:
    """The last name of what is called: environ.Env() is Env."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def needed_variables(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(environment variable, how it is read) where an expression reads one and has no default."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        of = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if of == "environ" and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            yield node.slice.value, "str"
    elif isinstance(node, ast.Call):
        start = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if not isinstance(start, ast.Name) or start.id not in ("env", "config") or node.args[1:]:
            return
        if any(keyword.arg == "default" for keyword in node.keywords):
            return
        kind = node.func.attr if isinstance(node.func, ast.Attribute) else "str"
        cast = next((getattr(keyword.value, "id", "str") for keyword in node.keywords if keyword.arg == "cast"), kind)
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            yield node.args[0].value, cast
        elif not node.args and kind in ("db", "db_url"):
            yield "DATABASE_URL", "db"
