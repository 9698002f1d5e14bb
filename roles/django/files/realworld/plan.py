"""What a release would do to the database, before it does: its migrations, and what of them breaks the running release.

For a while both releases serve. The running one breaks where something that it reads goes away, or where
the database refuses what it writes.
"""

import json
import re
import typing

from django.db import models
from django.db.migrations import Migration
from django.db.migrations import operations as ops
from django.db.migrations.state import ProjectState

Connection = typing.Any  # one of django.db.connections


def length(kind: str) -> float | None:
    """How many characters a type of the database holds; None if it is no type of text."""
    match = re.fullmatch(r"text|varchar(?:\((\d+)\))?", kind)
    return float(match[1] or "inf") if match else None


def wider(old: str, new: str) -> bool:
    """Whether every value of the database's old type is one of the new type."""
    old_length, new_length = length(old), length(new)
    return old_length is not None and new_length is not None and old_length <= new_length


def filled(field: models.Field, connection: Connection) -> bool:
    """Whether the database fills a field that an INSERT does not name."""
    default = getattr(field, "db_default", models.NOT_PROVIDED)  # since Django 5.0, as is generated
    return (
        bool(field.null or getattr(field, "generated", False) or field.db_type_suffix(connection))
        or default is not models.NOT_PROVIDED
    )


def stored(field: models.Field) -> typing.Any:
    """Where the database keeps a field: its column; of a relation to many its own table and the other one."""
    if field.many_to_many:
        return field.m2m_db_table(), field.related_model._meta.db_table
    return field.column


def target(field: models.Field) -> str | None:
    """The table and column where the database looks up a field's values; None if it does not."""
    if isinstance(field, models.ForeignKey) and field.db_constraint:
        return f"{field.target_field.model._meta.db_table}.{field.target_field.column}"
    return None


def altered(old: models.Field, new: models.Field, connection: Connection) -> str:
    """Why a changed field breaks code that knows the old one; empty if it does not."""
    if stored(old) != stored(new):
        return f"changes its table {old.m2m_db_table()}" if old.many_to_many else f"renames its column {old.column}"
    if old.null and not new.null:
        return "refuses NULL, which the running release may write"
    if filled(old, connection) and not filled(new, connection):
        return "is not filled by the database any more, as the running release expects"
    if new.unique and not old.unique:
        return "refuses values that are there already, which the running release may write"
    if target(new) not in (None, target(old)):
        return f"refuses what is not in {target(new)}, which the running release may write"
    kinds = old.db_type(connection), new.db_type(connection)
    if kinds[0] != kinds[1] and not wider(*kinds):
        return "changes its type from {} to {}".format(*kinds)
    if new.db_check(connection) not in (None, old.db_check(connection)):
        return f"refuses all but {new.db_check(connection)}, which the running release may write"
    return ""


def breaks(
    operation: ops.base.Operation,
    app: str,
    before: ProjectState,
    after: ProjectState,
    tables: set[str],
    connection: Connection,
) -> list[str]:
    """Sentences about what an operation breaks.

    before and after are the states of the project around it, tables those that were there at first.
    """
    if isinstance(operation, ops.RunSQL):
        return ["runs SQL, which nothing here can judge"]
    model = str(getattr(operation, "model_name", getattr(operation, "name", "")))
    if (app, model.lower()) not in before.models:
        return []
    old, name = before.apps.get_model(app, model)._meta, f"{app}.{model}"
    if old.db_table not in tables or not old.can_migrate(connection):
        return []

    def field(state: ProjectState, field_name: str) -> models.Field:
        return state.apps.get_model(app, model)._meta.get_field(field_name)

    match operation:
        case ops.DeleteModel():
            return [f"removes {name}"]
        case ops.RenameModel():
            new = after.apps.get_model(app, operation.new_name)._meta
            if old.db_table != new.db_table or any(each.many_to_many for each in old.get_fields(include_hidden=True)):
                return [f"renames {name} to {operation.new_name}"]
        case ops.AlterModelTable():
            if old.db_table != after.apps.get_model(app, model)._meta.db_table:
                return [f"renames the table of {name}"]
        case ops.RemoveField():
            return [f"removes {name}.{operation.name}"]
        case ops.RenameField():
            if stored(field(before, operation.old_name)) != stored(field(after, operation.new_name)):
                return [f"renames {name}.{operation.old_name} to {operation.new_name}"]
        case ops.AddField():
            new = field(after, operation.name)
            if new.db_type(connection) and not filled(new, connection):
                why = "which the running release does not fill: allow NULL or give it a db_default"
                return [f"adds {name}.{operation.name}, {why}"]
        case ops.AlterField():
            why = altered(field(before, operation.name), field(after, operation.name), connection)
            return [f"{name}.{operation.name}: {why}"] if why else []
        case ops.AddConstraint():
            return [f"adds {operation.constraint.name} to {name}, which may refuse what the running release writes"]
        case ops.AlterUniqueTogether():
            if set(after.apps.get_model(app, model)._meta.unique_together) - set(old.unique_together):
                return [f"makes {name} unique together, which may refuse what the running release writes"]
        case ops.AlterOrderWithRespectTo():
            ordered = bool(after.apps.get_model(app, model)._meta.order_with_respect_to)
            if ordered != bool(old.order_with_respect_to):
                return [
                    f"adds {name}._order, which the running release does not fill"
                    if ordered
                    else f"removes {name}._order"
                ]
    return []


def judge(migrations: list[Migration], state: ProjectState, connection: Connection) -> list[str]:
    """Sentences about what migrations break, each beginning with a migration's name.

    state is the project's before them, and after them in the end.
    """
    tables = {model._meta.db_table for model in state.apps.get_models(include_auto_created=True)}
    sentences = []
    for migration in migrations:
        app = migration.app_label
        for operation in migration.operations:
            before = state.clone()
            operation.state_forwards(app, state)
            for part in (
                operation.database_operations if isinstance(operation, ops.SeparateDatabaseAndState) else [operation]
            ):
                after = before.clone()
                part.state_forwards(app, after)
                sentences += [
                    f"{migration} {sentence}" for sentence in breaks(part, app, before, after, tables, connection)
                ]
                before = after
    return sentences


def plan() -> dict[str, list[str]]:
    """{"migrations": names of those to apply, "breaking": sentences}. Nothing breaks before the first migration."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    todo = [migration for migration, _backwards in executor.migration_plan(graph.leaf_nodes())]
    sentences = []
    if applied:
        state = executor.loader.project_state([key for key in applied if key in graph.nodes])
        sentences = judge(todo, state, connection)
    return {"migrations": list(map(str, todo)), "breaking": sentences}


def main() -> None:
    """Print the plan as one line of JSON."""
    print(json.dumps(plan()))
