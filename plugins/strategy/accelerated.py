"""Mitogen's linear strategy, on every core, with templates compiled once: what MITOGEN=1 runs plays with.

Mitogen pins its multiplexer to the first core and shares out the others. On a machine with two cores
that leaves one for everything else: the controller, all its workers and their ssh.
Source: ansible_mitogen/affinity.py, FixedPolicy.

It also looks for all installed collections for each task that runs a module of one, 0.1 s of its time: here they are found once.
Source: ansible_mitogen/planner.py, _load_collections.

Ansible forks a worker for every host of a task, a copy of the controller with 5,500 page faults, and Mitogen starts an event loop and a
connection to its multiplexer in each. Here the hosts of a task are threads of the controller, on one connection. As a worker does, a thread
copies the task, and sends its result through the queue, pickled. What has a time limit needs a process of its own, and is forked.
Source: ansible/plugins/strategy/__init__.py, StrategyBase._queue_task; ansible/executor/process/worker.py, WorkerProcess.

Mitogen's multiplexer and its connections end with every ansible-playbook: here they serve the next one, too (controller/connections.py).

To become root, Mitogen starts a second Python on the host, whose every message goes through the first one. Where sudo asks for no password, the
login starts the only one as root.
Source: ansible_mitogen/connection.py, Connection._build_stack, _connect_stack and reset; mitogen/parent.py, Connection.get_python_argv.

Ansible compiles every template and every condition anew for each task of each host, a quarter of its time:
here Jinja's own cache keeps what it makes of them, for the next task and the next run.
Source: https://jinja.palletsprojects.com/en/stable/api/#bytecode-cache

And Python looks for garbage seldom, and not at all in what was there before a play: most of that lives as long as the run.
Source: https://docs.python.org/3/library/gc.html#gc.freeze
"""

import gc
import os
import pathlib
import sys
import threading
from types import CodeType
from typing import Any

import ansible.collections.list
import ansible.release
import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.process
import ansible_mitogen.strategy
import jinja2
import mitogen.fork
from ansible import context
from ansible._internal import _task
from ansible._internal._errors._error_utils import result_dict_from_exception
from ansible._internal._templating import _jinja_bits as bits
from ansible._internal._templating._engine import TemplateEngine
from ansible.executor.task_executor import TaskExecutor
from ansible.executor.task_result import _RawTaskResult
from ansible.plugins.loader import PluginLoader, get_plugin_loader_namespace
from ansible_mitogen.connection import Connection
from jinja2.bccache import Bucket
from jinja2.environment import TemplateExpression

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from controller import connections
from controller.environment import STATE, Environment
from controller.imports import Imports

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()
gc.set_threshold(100_000, 50, 100)  # objects, and younger collections, until the next one
COLLECTIONS = list(ansible.collections.list.list_collection_dirs())
ansible.collections.list.list_collection_dirs = lambda: COLLECTIONS


class Kept:
    """Makes an environment of Ansible's keep the code of its templates."""

    def __init__(self, environment: Any, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cache = jinja2.FileSystemBytecodeCache(str(directory))
        self.buckets: dict[tuple[Any, ...], Bucket] = {}
        self.compile, self.compile_expression, self.thread = (
            environment.compile,
            environment.compile_expression,
            threading.local(),
        )
        environment.compile = lambda *source, **options: self.template(*source, **options)
        environment.compile_expression = lambda *source, **options: self.expression(*source, **options)

    def bucket(self, environment: jinja2.Environment, kind: str, source: object) -> Bucket:
        """Where the code of a source is kept: by all that it depends on. Without code when it is new."""
        context = bits._TemplateCompileContext.current(optional=True)
        depends = (
            kind,
            str(source),
            context and context.escape_backslashes,
            jinja2.__version__,
            ansible.release.__version__,
            *(getattr(environment, name) for name in bits._TEMPLATE_OVERRIDE_FIELD_NAMES),
        )
        if depends not in self.buckets:
            self.buckets[depends] = self.cache.get_bucket(environment, repr(depends), None, str(source))
        return self.buckets[depends]

    def template(self, environment: jinja2.Environment, source: object, *rest: Any, **options: Any) -> CodeType:
        """In place of Environment.compile."""
        bucket: Bucket | None = getattr(self.thread, "expected", None)
        if isinstance(source, str) and not rest and not options:
            bucket = self.bucket(environment, "template", source)
        if bucket is None:
            code: CodeType = self.compile(environment, source, *rest, **options)
            return code
        if bucket.code is None:
            bucket.code = self.compile(environment, source, *rest, **options)
            self.cache.set_bucket(bucket)
        return bucket.code

    def expression(
        self, environment: jinja2.Environment, source: str, undefined_to_none: bool = True
    ) -> TemplateExpression:
        """In place of Environment.compile_expression, which parses, and has the result compiled as if it were a template."""
        bucket = self.bucket(environment, "expression", source)
        if bucket.code is None:
            self.thread.expected = bucket
            try:
                result: TemplateExpression = self.compile_expression(environment, source, undefined_to_none)
                return result
            finally:
                self.thread.expected = None  # where it could not be parsed
        template = environment.template_class.from_code(environment, bucket.code, environment.make_globals(None), None)
        return jinja2.environment.TemplateExpression(template, undefined_to_none)


KEPT = Kept(bits.AnsibleEnvironment, STATE / "templates")
IMPORTS = Imports(STATE)


LOAD, LOADING = PluginLoader._load_module_source, threading.RLock()


def load_module_source(loader: PluginLoader, **names: Any) -> Any:
    """In place of PluginLoader._load_module_source: no thread is given a plugin that another thread has not read to its end."""
    with LOADING:
        return LOAD(loader, **names)


PluginLoader._load_module_source = load_module_source


class Login(list):
    """Specifications of one connection that has become root on its way: to leave that off, as Connection.reset does, leaves off nothing."""

    def __getitem__(self, index: Any) -> Any:
        return self if index == slice(None, -1) else super().__getitem__(index)


def as_root(stack: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mitogen's specifications of connections, each by way of the one before, with the way from a login to root made one."""
    if [spec["method"] for spec in stack] != ["ssh", "sudo"]:
        return stack
    login, sudo = (spec["kwargs"] for spec in stack)
    if sudo["password"] or sudo["username"] != "root":
        return stack
    command = [sudo["sudo_path"] or "sudo", "-H", "-n", "-u", "root", "--"]
    return Login([{**stack[0], "kwargs": {**login, "python_path": command + login["python_path"]}}])


def connect_stack(connection: Connection, stack: list[dict[str, Any]]) -> None:
    """In place of Connection._connect_stack."""
    CONNECT_STACK(connection, stack)
    connection.login_context = connection.login_context or connection.context


BUILD_STACK, CONNECT_STACK = Connection._build_stack, Connection._connect_stack
Connection._build_stack = lambda connection: (lambda name, stack: (name, as_root(stack)))(*BUILD_STACK(connection))
Connection._connect_stack = connect_stack


def session() -> connections.Session | None:
    """The use of the connections that are kept for the environment; None where there is no environment, or another run uses them."""
    inventories = [pathlib.Path(path) for path in context.CLIARGS.get("inventory") or ()]
    if len(inventories) != 1 or not inventories[0].is_file():
        return None
    state = Environment(inventories[0]).state
    try:
        return connections.session_of(state) if state.is_dir() else None
    except OSError:  # no place for a socket: Mitogen's own multiplexer, which ends with the run, does as well
        return None


class SharedBinding(ansible_mitogen.process.ClassicBinding):
    """The controller's connection to Mitogen's multiplexer, which all threads use. It ends with the play."""

    def close(self) -> None:
        """Leave the connection to the other threads."""


class SharedModel(ansible_mitogen.process.WorkerModel):
    """Mitogen's model of a worker, for a controller that is the only one."""

    def __init__(self) -> None:
        self.session = session()
        if self.session:
            ansible_mitogen.process._classic_worker_model = connections.KeptModel(self.session.listener)
        self.classic = ansible_mitogen.process.get_classic_worker_model()
        self.binding = SharedBinding(self.classic)
        os.register_at_fork(after_in_child=self.disown)

    def on_strategy_start(self) -> None:
        """Connect to the multiplexer, in the main thread: Mitogen ends a connection with the thread that made it."""
        self.classic.get_binding("")

    def on_strategy_complete(self) -> None:
        """End the connection."""
        self.classic.on_binding_close()

    def get_binding(self, _inventory_name: str) -> SharedBinding:
        """The connection to the only multiplexer."""
        return self.binding

    def disown(self) -> None:
        """Let a forked process make a connection of its own: the parent's threads are not in it."""
        self.classic.router = self.classic.broker = self.classic.parent = self.classic.listener_path = None
        mitogen.fork.on_fork()
        if ansible_mitogen.process._worker_model is self:
            ansible_mitogen.process._worker_model = self.classic


Linear: Any = ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, Linear):
    """Tasks host by host in step, over Mitogen's connections."""

    model: SharedModel | None = None  # of all plays

    def __init__(self, tqm: Any) -> None:
        super().__init__(tqm)
        # {id of the task that is executed: how many hosts may be at it}
        self.slots: dict[str, threading.Semaphore] = {}

    def run(self, iterator: Any, play_context: Any) -> int:
        """Run a play."""
        gc.collect()
        gc.freeze()
        session = self._get_worker_model().session
        if session:
            session.complete = False
        result: int = super().run(iterator, play_context)
        if session:
            session.complete = True
        return result

    def _get_worker_model(self) -> SharedModel:
        StrategyModule.model = model = StrategyModule.model or SharedModel()
        return model

    def _queue_task(self, host: Any, task: Any, task_vars: dict[str, Any], play_context: Any) -> None:
        """Start a thread that executes a task for a host."""
        if task.timeout:
            super()._queue_task(host, task, task_vars, play_context)
            return
        self._queued_task_cache[(host.name, task._uuid)] = {
            "host": host,
            "task": task,
            "task_vars": task_vars,
            "play_context": play_context,
        }
        self._tqm.send_callback("v2_runner_on_start", host, task)
        self._pending_results += 1
        slots = self.slots.get(task._uuid)
        if slots is None:  # of another task: this is the first host of the next one
            throttle = int(TemplateEngine(loader=self._loader, variables=task_vars).template(task.throttle))
            self.slots = {
                task._uuid: (slots := threading.Semaphore(min(throttle or len(self._workers), len(self._workers))))
            }
        threading.Thread(target=self.execute, args=(host, task, task_vars, play_context, slots), daemon=True).start()

    def execute(
        self, host: Any, task: Any, task_vars: dict[str, Any], play_context: Any, slots: threading.Semaphore
    ) -> None:
        """Execute a task for a host and send the result. The task is copied: its fields take the host's values."""
        own = task.copy(exclude_parent=True, exclude_tasks=True)
        own._parent = task._parent
        try:
            with slots, _task.TaskContext(own):
                result = TaskExecutor(
                    host,
                    own,
                    task_vars,
                    play_context,
                    self._loader,
                    get_plugin_loader_namespace(),
                    self._final_q,
                    self._variable_manager,
                ).run()
                self._final_q.send_task_result(
                    _RawTaskResult(host=host, task=own, return_data=result, task_fields=own.dump_attrs())
                )
        except (
            BaseException
        ) as error:  # a result that cannot be pickled is one, too: the play awaits a result of every host
            self._final_q.send_task_result(
                _RawTaskResult(host=host, task=own, return_data=result_dict_from_exception(error), task_fields={})
            )
