"""The accelerated strategy keeps what Jinja makes of templates, and nothing comes out otherwise."""

import importlib.util
import pathlib

import jinja2
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[3]
QUOTED = r"{{ 'a\\b' }}"


def rendered():
    """What a worker makes of templates and conditions, of which some differ in nothing but how they are read."""
    templar = Templar(loader=DataLoader(), variables={"word": "tier", "words": ["lb", "app"], "nested": trust_as_template("{{ word }}s")})
    asked = [("{{ nested | upper }}", {}), (QUOTED, {}), (QUOTED, {"escape_backslashes": False}),
             ("{% for one in words %}{{ one }} {% endfor %}\n", {}), ("{{ words }}", {}), ("word", {})]
    return [templar.template(trust_as_template(text), **options) for text, options in asked] + [
        templar.evaluate_conditional(trust_as_template(text)) for text in ("word == 'tier'", "words | length > 2")]


@pytest.fixture(name="strategy", scope="module")
def strategy_fixture():
    """The strategy, as Ansible loads it."""
    init_plugin_loader()
    spec = importlib.util.spec_from_file_location("accelerated", ROOT / "playbooks/strategy/accelerated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_templates_are_compiled_once(strategy, tmp_path, monkeypatch):
    compiled, compile_template = [], strategy.KEPT.compile
    monkeypatch.setattr(strategy.KEPT, "cache", jinja2.FileSystemBytecodeCache(str(tmp_path)))
    monkeypatch.setattr(strategy.KEPT, "compile", lambda *words: compiled.append(words) or compile_template(*words))
    first, many = rendered(), len(compiled)
    assert first == ["TIERS", "a\\\\b", "a\\b", "lb app \n", ["lb", "app"], "word", True, False]
    assert many == 8
    assert rendered() == first
    assert len(compiled) == many


def test_a_template_that_cannot_be_parsed_says_so_and_leaves_nothing(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(strategy.KEPT, "cache", jinja2.FileSystemBytecodeCache(str(tmp_path)))
    templar = Templar(loader=DataLoader(), variables={"word": "tier"})
    for broken in ("word ==", "word word"):
        with pytest.raises(Exception, match="yntax error"):
            templar.evaluate_conditional(trust_as_template(broken))
    assert list(tmp_path.iterdir()) == []
    assert templar.template(trust_as_template("{{ word }}")) == "tier"
