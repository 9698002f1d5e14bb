"""The steps of `make test` as molecule/steps.yml declares them: their commands, their environments, and the tests that belong to each."""

import ast
import io
import os
import pathlib
import shutil
import subprocess

import plan
import usage
import yaml
from ruamel.yaml import YAML

from controller.environment import ROOT, Environment

TESTS = ROOT / "molecule/tests"
DECLARED = ROOT / "molecule/steps.yml"
LONGEST_LINE = 1000  # characters, after which a line of it would be folded
REHEARSED = ("production", "staging")  # environments of real hosts, which are containers here


def scenarios() -> list[str]:
    """The Molecule scenarios."""
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def load() -> dict[str, plan.Step]:
    """{name: step} as declared. Raises ValueError where a scenario has no row or a row no command."""
    steps = plan.declared(yaml.safe_load(DECLARED.read_text()))
    if wrong := set(scenarios()) ^ (set(steps) - set(fixed())):
        raise ValueError(
            f"molecule/steps.yml: {', '.join(sorted(wrong))}: a scenario without a row, or a row without a scenario"
        )
    return steps


def learned(text: str, measured: dict[str, tuple[float, float | None]]) -> str:
    """The text of steps.yml with other hints: {step: (seconds, processors, or None where that is unknown)}."""
    editor, rewritten = YAML(), io.StringIO()
    editor.width, editor.explicit_start = LONGEST_LINE, text.startswith("---")
    declared = editor.load(text)
    for name in declared.keys() & measured.keys():
        seconds, cores = measured[name]
        declared[name]["seconds"] = round(seconds)
        if cores is not None:
            declared[name]["cores"] = round(cores, 1)
    editor.dump(declared, rewritten)
    return rewritten.getvalue()


def named(name: str) -> Environment:
    """An environment, as containers here."""
    return Environment.named(name, rehearsed=name in REHEARSED)


def variables(name: str) -> dict[str, str]:
    """What the steps of an environment find in theirs: where its inventory and its vault's password are; nothing is built before a scenario."""
    return {**named(name).own_variables, "DEPENDENCY": "false", "MAKEFLAGS": ""}


def fixed() -> dict[str, list[str]]:
    """{step: command} of the steps that are no scenarios."""
    make, production = ["make", "--no-print-directory"], named("production").make_args.split()
    return {
        # Building from bare hosts is what the steps after it prove, whatever images are left from before.
        "platform": [*make, "up", *production, "IMAGE=bare"],
        "bake": [*make, "image", *production],
        "static": [*make, "lint", "static", named("local").make_args],
        "build": ["pytest", "-q", "molecule/tests/build"],
    }


def command(step: plan.Step) -> tuple[list[str], dict[str, str]]:
    """(command, variables) of a step."""
    words = fixed().get(step.name, ["molecule", "test", "--destroy", "never", "-s", step.name])
    return words, variables(next(iter(step.environments), "local"))


# ------------------------------------------------------------------ what the steps build


def built(steps: list[plan.Step]) -> list[Environment]:
    """The environments that steps build; the one of local is nobody's to remove."""
    names = dict.fromkeys(name for step in reversed(steps) for name in step.environments if name != "local")
    return list(map(named, names))


def stands(environment: Environment) -> bool:
    """Whether there may be anything of an environment: what it keeps on this machine, or a container."""
    if environment.state.exists():
        return True
    if not shutil.which("docker"):
        return False
    found = subprocess.run(
        [*usage.AS_ROOT, "docker", "ps", "--all", "--quiet", "--filter", f"label=realworld={environment.name}"],
        capture_output=True,
        check=False,
    )
    return bool(found.stdout)


def down(environments: list[Environment]) -> list[Environment]:
    """Remove those environments of which there is anything; those that could not be removed."""
    return [
        environment
        for environment in environments
        if stands(environment)
        and subprocess.run(
            ["make", "--no-print-directory", "down", *environment.make_args.split()],
            cwd=ROOT,
            env=dict(os.environ, MAKEFLAGS=""),
            check=False,
        ).returncode
    ]


# ------------------------------------------------------------------ the tests that belong to them


def files() -> dict[str, list[pathlib.Path]]:
    """{step: the files of its tests}; those of no step belong to "no step"."""
    found = {
        "static": sorted([*TESTS.glob("policy/test_*.py"), *TESTS.glob("unit/test_*.py")]),
        "build": sorted(TESTS.glob("build/test_*.py")),
    }
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())["verifier"]
    for name in scenarios():
        verifier = shared | (
            (yaml.safe_load((ROOT / f"molecule/{name}/molecule.yml").read_text()) or {}).get("verifier") or {}
        )
        directory = ROOT / "molecule" / name / verifier["directory"]
        patterns = ["test_*.py", *verifier.get("additional_files_or_dirs", [])]
        found[name] = sorted({path.resolve() for pattern in patterns for path in directory.resolve().glob(pattern)})
    known = {path for paths in found.values() for path in paths}
    return found | {"no step": sorted(set(TESTS.rglob("test_*.py")) - known)}


def existing(names: list[str]) -> set[str]:
    """Every test function of some steps, as "step path::name"; for all of the steps, those of no step are among them."""
    found = files()
    chosen = found if set(names) >= set(load()) else {name: found.get(name, []) for name in names}
    return {
        f"{step} {path.relative_to(ROOT)}::{node.name}"
        for step, paths in chosen.items()
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
