"""What a release would do to the database, before it does: a dry migration plan, and what of it breaks the running release.

For a while both releases serve. The running one breaks where something that it reads goes away, or where
the database refuses what it writes.
"""

import json

from django.db import models
from django.db.migrations import operations as ops


def wider(old, new):
    """Whether every value of a field's old type is one of its new type."""
    if type(old) is type(new) and isinstance(old, (models.CharField, models.BinaryField)):
        return new.max_length is None or (old.max_length is not None and new.max_length >= old.max_length)
    return isinstance(old, models.CharField) and isinstance(new, models.TextField)


def altered(old, new, connection):
    """Why a changed field breaks code that knows the old one; empty if it does not."""
    if old.column != new.column:
        return f"renames its column {old.column}"
    if old.null and not new.null:
        return "refuses NULL, which the running release may write"
    if new.unique and not old.unique:
        return "refuses values that are there already, which the running release may write"
    if old.db_type(connection) != new.db_type(connection) and not wider(old, new):
        return f"changes its type from {old.db_type(connection)} to {new.db_type(connection)}"
    return ""


def breaks(operation, app, before, after, connection):
    """Sentences about what an operation breaks. before and after are the states of the project around it."""
    def name(model, field=""):
        return f"{app}.{model}" + (f".{field}" if field else "")

    def field(state, model, field_name):
        return state.apps.get_model(app, model)._meta.get_field(field_name)

    match operation:
        case ops.DeleteModel():
            return [f"removes {name(operation.name)}"]
        case ops.RenameModel():
            return [f"renames {name(operation.old_name)} to {operation.new_name}"]
        case ops.AlterModelTable():
            return [f"renames the table of {name(operation.name)}"]
        case ops.RemoveField():
            return [f"removes {name(operation.model_name, operation.name)}"]
        case ops.RenameField():
            return [f"renames {name(operation.model_name, operation.old_name)} to {operation.new_name}"]
        case ops.AddField():
            new = field(after, operation.model_name, operation.name)
            if new.column and not new.null and not new.has_db_default():
                return [f"adds {name(operation.model_name, operation.name)}, which the running release does not fill: allow NULL or give it a db_default"]
        case ops.AlterField():
            why = altered(field(before, operation.model_name, operation.name), field(after, operation.model_name, operation.name), connection)
            return [f"{name(operation.model_name, operation.name)}: {why}"] if why else []
        case ops.AddConstraint():
            return [f"adds {operation.constraint.name} to {name(operation.model_name)}, which may refuse what the running release writes"]
        case ops.AlterUniqueTogether():
            if operation.option_value:
                return [f"makes {name(operation.name)} unique together, which may refuse what the running release writes"]
        case ops.RunSQL():
            return ["runs SQL, which nothing here can judge"]
    return []


def judge(migration, state, connection):
    """Sentences about what a migration breaks, each beginning with its name; state is the project's before it, and after it in the end."""
    found = []
    for operation in migration.operations:
        parts = operation.database_operations if isinstance(operation, ops.SeparateDatabaseAndState) else [operation]
        before = state.clone()
        operation.state_forwards(migration.app_label, state)
        for part in parts:
            after = state
            if part is not operation:
                after = before.clone()
                part.state_forwards(migration.app_label, after)
            found += [f"{migration} {sentence}" for sentence in breaks(part, migration.app_label, before, after, connection)]
    return found


def plan():
    """{"migrations": names of those to apply, "breaking": sentences}. Nothing breaks where no migration was ever applied."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    todo = [migration for migration, _backwards in executor.migration_plan(graph.leaf_nodes())]
    found = []
    if applied:
        state = executor.loader.project_state([key for key in applied if key in graph.nodes])
        found = [sentence for migration in todo for sentence in judge(migration, state, connection)]
    return {"migrations": list(map(str, todo)), "breaking": found}


def main():
    """Print the plan as one line of JSON."""
    print(json.dumps(plan()))
