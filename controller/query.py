"""Ask hosts with a function that needs nothing but Python there, and give their answers the form of Ansible's results."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from controller import ssh
from controller.environment import ROOT, Environment

UTILS = ROOT / "plugins/module_utils"  # functions that playbooks share with the verbs


def modules(*names: str) -> dict[str, str]:
    """{name by which it is imported: source} of modules of plugins/module_utils."""
    return {
        f"ansible.module_utils.{name}": pathlib.Path(UTILS, f"{name}.py").read_text(encoding="utf-8") for name in names
    }


def result(reply: ssh.Reply) -> dict[str, Any]:
    """What a function returned on a host; where it did not, the reason under "msg", "unreachable" where the host was not reached, and
    "not_asked" where this machine was too busy to ask it."""
    if reply.state is ssh.State.ANSWERED:
        try:
            answer: dict[str, Any] = json.loads(reply.output)
            return answer
        except ValueError:
            return {"failed": True, "msg": f"what it answers is no JSON: {reply.output[:200].decode(errors='replace')}"}
    flags = {ssh.State.UNREACHABLE: {"unreachable": True}, ssh.State.NOT_ASKED: {"not_asked": True}}
    return {"failed": True, "msg": reply.reason} | flags.get(reply.state, {})


def silence(answer: Mapping[str, Any]) -> str:
    """Why a host has not answered, as words after its name; answer: its result."""
    if answer.get("not_asked"):
        return f"was not asked in time: {answer['msg']}"
    return "does not answer" + (" over SSH" if answer.get("unreachable") else f": {str(answer.get('msg', ''))[:300]}")


def ask(
    environment: Environment,
    sent: dict[str, str],
    function: str,
    arguments: Mapping[str, Mapping[str, Any]],
    within: float = 10.0,
) -> dict[str, dict[str, Any]]:
    """{host: result} of a function of the last of the modules that are sent, within so many seconds. arguments: {host: its keyword arguments}."""
    sources = {name: ssh.program(sent, function, given, within) for name, given in arguments.items()}
    return {
        name: result(reply)
        for name, reply in ssh.run_all(
            {name: environment.hosts[name].login for name in arguments}, sources, within
        ).items()
    }
