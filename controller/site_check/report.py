"""Everything that is found in a project, in the order in which it is printed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from controller.report import Row, table
from controller.site_check import findings
from controller.site_check.findings import LOST, NOTE, REFUSED, Finding
from controller.site_check.packages import Requirements, choose, pyproject, python_problems, requirements
from controller.site_check.project import Project, Settings, project_directories, settings_module, wsgi_module

COMMON = {
    "app",
    "apps",
    "backend",
    "base",
    "conf",
    "config",
    "core",
    "django",
    "project",
    "server",
    "settings",
    "site",
    "src",
    "web",
}
DESCRIPTION = (
    "site_name",
    "site_source",
    "site_ref",
    "site_directory",
    "site_requirements",
    "site_wsgi",
    "site_settings",
)


class Report(NamedTuple):
    """rows: what the project has, for a table; findings; lines: {variable of group_vars: its value}, of those that are not set so."""

    rows: list[Row]
    findings: list[Finding]
    lines: dict[str, Any]

    @property
    def refused(self) -> list[str]:
        """Why the build would refuse the project."""
        return [finding.text for finding in self.findings if finding.kind == REFUSED]


def site_name(settings: str, source: str) -> str:
    """A name for the site: of the package that has its settings, or of its source."""
    top = settings.partition(".")[0]
    name = top if top not in COMMON | {""} else re.sub(r"(\.git)?/*$", "", source).rpartition("/")[2].partition("-")[0]
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (name if re.match("[a-z]", name) else f"site_{name}")[:31].rstrip("_")


def modules(project: Project, settings: str, wsgi: str, given: Mapping[str, Any]) -> Iterator[Finding]:
    """Modules that the project does not have. A module of a package that is installed, or that the build writes, is not looked for."""
    for variable, module in (("site_settings", settings), ("site_wsgi", wsgi)):
        if not module and variable == "site_settings":
            yield Finding(REFUSED, "no settings module: neither manage.py nor wsgi.py sets DJANGO_SETTINGS_MODULE")
        elif not module:
            other = "; asgi.py is not served" if project.named(r"(.*/)?asgi\.py") else ""
            yield Finding(REFUSED, f"no wsgi.py that defines `application`{other}: django-admin startproject makes one")
        elif not project.module_file(module) and project.has_top(module) and not given.get("site_build_commands"):
            yield Finding(
                REFUSED, f"{variable} is {module}, and the source has no such module: git may ignore its file"
            )
        elif not project.module_file(module) and not project.has_top(module):
            yield Finding(
                NOTE, f"{module} is no module below {project.directory or 'the source'}: a package has to bring it"
            )


def merged(given: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{variable: value}: lists and mappings of given ones, and what several findings add to them."""
    lines: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            before = lines.get(name, given.get(name))
            if name == "site_release_commands" and before is not None:
                lines[name] = [
                    *value,
                    *(one for one in before if one.split()[0] not in [each.split()[0] for each in value]),
                ]
            elif isinstance(value, list):
                lines[name] = [*(before or []), *(one for one in value if one not in (before or []))]
            elif isinstance(value, dict):
                lines[name] = value | (before or {})
            else:
                lines[name] = value
    return {name: value for name, value in lines.items() if value != given.get(name)}


def inspect(source: Project, given: Mapping[str, Any], kind: str = "directory", origin: str = "") -> Report:
    """What a source has.

    given: {variable: value} of its site, as far as it is described; kind: of the source, as release_source names it; origin: where it is from,
    where that is not described.
    """
    results: list[Finding] = []
    directories = project_directories(source)
    directory = given["site_directory"] if "site_directory" in given else (directories or [""])[0]
    project = Project(source.root, source.names, directory)
    if directory and not project.files:
        reason = Finding(REFUSED, f"the source has no directory {directory}: site_directory names it")
        return Report([], [reason], {})
    if directories[1:] and "site_directory" not in given:
        results.append(
            Finding(
                NOTE, f"manage.py is in {', '.join(name or '.' for name in directories)} as well: the first is taken"
            )
        )

    named, named_by = settings_module(project)
    settings_name = given.get("site_settings") or named
    settings = Settings(project, settings_name)
    wsgi = given.get("site_wsgi") or wsgi_module(project, settings)
    results += modules(project, settings_name, wsgi, given)

    extras, groups = list(given.get("site_extras", [])), list(given.get("site_dependency_groups", []))
    file = given["site_requirements"] if "site_requirements" in given else "" if kind == "wheel" else choose(project)
    needed: Requirements = requirements(project, file, extras, groups, kind)
    results += [Finding(REFUSED, reason) for reason in needed.refused]
    if not given and not needed.packages:
        results.append(
            Finding(
                NOTE, "packages are listed where this does not look: those that need libraries of Debian are not known"
            )
        )
    content = {} if needed.refused else pyproject(project)
    ranges, problems = ({}, []) if kind == "wheel" else python_problems(project.path, content)
    results += [Finding(REFUSED, f"{problem}: widen it there once the project runs on that") for problem in problems]

    results += findings.versions(project)
    results += findings.packages(needed)
    results += findings.front_end(project)
    results += findings.translations(project)
    results += findings.compressor(needed, settings)
    results += findings.variables(settings, given)
    results += findings.procfile(project)
    results += findings.processes(needed)
    results += findings.services(project)
    results += findings.asgi(project, settings, needed)
    results += findings.databases(project, settings, needed)
    results += findings.replaced(settings)

    own = {
        "site_name": given.get("site_name") or site_name(settings_name, given.get("site_source", origin)),
        "site_source": given.get("site_source", origin),
        "site_directory": directory,
        "site_requirements": file,
        "site_wsgi": wsgi,
        "site_settings": settings_name,
    }
    lines = merged(
        given,
        [
            {name: value for name, value in own.items() if value or name == "site_requirements" and file == ""},
            *(finding.lines for finding in results),
        ],
    )
    listed = f"{len(needed.packages)} package{'s' if len(needed.packages) > 1 else ''}" if needed.packages else ""
    rows: list[Row] = [
        ("project", directory or ".", "manage.py" if project.has("manage.py") else "no manage.py"),
        ("settings", settings_name or "none", "group_vars" if given.get("site_settings") else named_by),
        ("wsgi", wsgi or "none", "group_vars" if given.get("site_wsgi") else project.module_file(wsgi)),
        ("requirements", {None: "none", "": "of the project itself"}.get(file, file or ""), listed),
        ("Python", " and ".join(ranges.values()) or "any", " and ".join(ranges)),
    ]
    return Report(rows, results, {name: value for name, value in lines.items() if value is not None})


class Lines(yaml.SafeDumper):
    """YAML as it is in group_vars: items of a list are indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def variable_lines(lines: Mapping[str, Any]) -> list[str]:
    """Variables as lines of YAML, those that describe the site first."""
    order = sorted(lines, key=lambda name: (DESCRIPTION.index(name) if name in DESCRIPTION else len(DESCRIPTION), name))
    parts = [
        yaml.dump(
            {name: lines[name]},
            Dumper=Lines,
            default_flow_style=None if isinstance(lines[name], (list, dict)) else False,
            sort_keys=False,
            width=10_000,
        )
        for name in order
    ]
    return [line for part in parts for line in part.splitlines()]


def text(report: Report, title: str) -> list[str]:
    """The lines that are printed."""
    body = ["", f"  {title}", "", *table(report.rows)]
    if report.lines:
        body += [
            "",
            "  Write into group_vars/all/site.yml:",
            "",
            *(f"    {line}" for line in variable_lines(report.lines)),
        ]
    titles = {REFUSED: "The build refuses", LOST: "Does not work on the tier", NOTE: "Notes"}
    for kind, heading in titles.items():
        if sentences := [finding.text for finding in report.findings if finding.kind == kind]:
            body += ["", f"  {heading}:", "", *(f"    {sentence}" for sentence in sentences)]
    return [*body, ""]
