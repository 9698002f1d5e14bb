"""What of a release's migrations breaks the running release."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from repository import program

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "tier": {"ENGINE": "django.db.backends.postgresql", "NAME": "site"},
    }
)
django.setup()

from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, RemoveIndexConcurrently
from django.core.management import call_command
from django.db import connection, connections, models
from django.db.migrations import Migration
from django.db.migrations import operations as ops
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState
from django.test import override_settings

plan = program("roles/django/files/realworld/plan.py")


def table(name: str, *fields: Any, **options: bool | set[tuple[str, str]] | str) -> Any:
    return ops.CreateModel(name, [("id", models.AutoField(primary_key=True)), *fields], options)


def key(to: str, **more: bool | int | str) -> Any:
    return models.ForeignKey(to, models.CASCADE, **more)


def apart(*operations: Any, state: Any = ()) -> Any:
    return ops.SeparateDatabaseAndState(list(operations), list(state))


RUNNING = [
    table("Tag"),
    table("Brand"),
    table("Bare"),
    table("Seen", ("text", models.TextField()), managed=False),
    table(
        "Item",
        ("text", models.CharField(max_length=50)),
        ("body", models.TextField()),
        ("note", models.CharField(max_length=50, null=True)),
        ("mail", models.EmailField(max_length=50)),
        ("number", models.IntegerField()),
        ("count", models.PositiveIntegerField()),
        ("code", models.CharField(max_length=9, unique=True)),
        ("price", models.DecimalField(max_digits=5, decimal_places=2)),
        ("colour", models.CharField(max_length=9, db_default="red")),
        ("size", models.IntegerField(null=True, db_default=1)),
        ("tag", key("shop.Tag")),
        ("loose", key("shop.Tag", db_constraint=False, related_name="+")),
        ("tags", models.ManyToManyField("shop.Tag", related_name="+")),
        unique_together={("text", "number"), ("number", "mail")},
    ),
    table("Line", ("item", key("shop.Item")), order_with_respect_to="item"),
    table("Word", ("item", key("shop.Item"))),
    ops.CreateModel("Cheap", [], {"proxy": True}, bases=("shop.item",)),
]
INDEX = models.Index(fields=["number"], name="by_number")
POSITIVE = models.CheckConstraint(condition=models.Q(number__gt=0), name="positive")


def migration(name: str, app: str, operations: Any) -> Any:
    made = Migration(name, app)
    made.operations = operations
    return made


def running() -> Any:
    """The state of the project that serves."""
    state = ProjectState()
    for operation in RUNNING:
        operation.state_forwards("shop", state)
    return state


def judged(*operations: Any, app: str = "shop") -> list[str]:
    """What is said of a migration of these operations, without its name."""
    breaks = plan.judge([migration("0002_change", app, operations)], running(), connections["tier"])
    assert all(line.startswith(f"{app}.0002_change ") for line in breaks)
    return [line.partition(" ")[2] for line in breaks]


def change(name: str, field: Any) -> Any:
    return ops.AlterField("Item", name, field)


def describe(value: Any) -> str | None:
    return value.describe() if isinstance(value, ops.base.Operation) else None


UNFILLED = "which the running release does not fill: allow NULL or give it a db_default"
REFUSED = "which the running release may write"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (ops.DeleteModel("Item"), "removes shop.Item"),
        (ops.RenameModel("Item", "Thing"), "renames shop.Item to Thing"),
        (ops.RenameModel("Word", "Term"), "renames shop.Word to Term"),
        (ops.AlterModelTable("Item", "things"), "renames the table of shop.Item"),
        (ops.RemoveField("Item", "note"), "removes shop.Item.note"),
        (ops.RemoveField("Item", "tags"), "removes shop.Item.tags"),
        (ops.RenameField("Item", "text", "words"), "renames shop.Item.text to words"),
        (ops.RenameField("Item", "tags", "labels"), "renames shop.Item.tags to labels"),
        (ops.AddField("Item", "new", models.IntegerField()), f"adds shop.Item.new, {UNFILLED}"),
        (ops.AddField("Item", "new", models.IntegerField(default=1)), f"adds shop.Item.new, {UNFILLED}"),
        (ops.AddField("Item", "new", key("shop.Tag", default=1, related_name="+")), f"adds shop.Item.new, {UNFILLED}"),
        (change("text", models.CharField(max_length=50, db_column="words")), "shop.Item.text: renames its column text"),
        (change("note", models.CharField(max_length=50)), f"shop.Item.note: refuses NULL, {REFUSED}"),
        (change("note", models.CharField(max_length=50, db_default="")), f"shop.Item.note: refuses NULL, {REFUSED}"),
        (
            change("number", models.IntegerField(unique=True)),
            f"shop.Item.number: refuses values that are there already, {REFUSED}",
        ),
        (
            change("colour", models.CharField(max_length=9)),
            "shop.Item.colour: is not filled by the database any more, as the running release expects",
        ),
        (
            change("id", models.IntegerField(primary_key=True)),
            "shop.Item.id: is not filled by the database any more, as the running release expects",
        ),
        (change("tag", key("shop.Brand")), f"shop.Item.tag: refuses what is not in shop_brand.id, {REFUSED}"),
        (
            change("loose", key("shop.Tag", related_name="+")),
            f"shop.Item.loose: refuses what is not in shop_tag.id, {REFUSED}",
        ),
        (change("tags", models.ManyToManyField("shop.Brand")), "shop.Item.tags: changes its table shop_item_tags"),
        (
            change("tags", models.ManyToManyField("shop.Tag", db_table="tagged")),
            "shop.Item.tags: changes its table shop_item_tags",
        ),
        (
            change("text", models.CharField(max_length=49)),
            "shop.Item.text: changes its type from varchar(50) to varchar(49)",
        ),
        (change("body", models.CharField(max_length=50)), "shop.Item.body: changes its type from text to varchar(50)"),
        (change("text", models.IntegerField()), "shop.Item.text: changes its type from varchar(50) to integer"),
        (change("number", models.TextField()), "shop.Item.number: changes its type from integer to text"),
        (change("number", models.BigIntegerField()), "shop.Item.number: changes its type from integer to bigint"),
        (
            change("price", models.DecimalField(max_digits=4, decimal_places=2)),
            "shop.Item.price: changes its type from numeric(5, 2) to numeric(4, 2)",
        ),
        (
            change("number", models.PositiveIntegerField()),
            f'shop.Item.number: refuses all but "number" >= 0, {REFUSED}',
        ),
        (
            ops.AddConstraint("Item", POSITIVE),
            "adds positive to shop.Item, which may refuse what the running release writes",
        ),
        (
            AddConstraintNotValid("Item", POSITIVE),
            "adds positive to shop.Item, which may refuse what the running release writes",
        ),
        (
            ops.AlterUniqueTogether("Item", {("text", "mail")}),
            "makes shop.Item unique together, which may refuse what the running release writes",
        ),
        (ops.AlterOrderWithRespectTo("Word", "item"), "adds shop.Word._order, which the running release does not fill"),
        (ops.AlterOrderWithRespectTo("Line", None), "removes shop.Line._order"),
        (ops.RunSQL("drop table shop_item"), "runs SQL, which nothing here can judge"),
        (apart(ops.RemoveField("Item", "note")), "removes shop.Item.note"),
    ],
    ids=describe,
)
def test_a_breaking_operation_is_reported(operation: Any, expected: str) -> None:
    assert judged(operation) == [expected]


@pytest.mark.parametrize(
    "operation",
    [
        table("New", ("text", models.TextField())),
        ops.DeleteModel("Cheap"),
        ops.DeleteModel("Seen"),
        ops.RemoveField("Seen", "text"),
        ops.AlterModelTable("Item", "shop_item"),
        ops.AlterModelOptions("Item", {"ordering": ["text"]}),
        ops.AlterModelManagers("Item", []),
        ops.AddField("Item", "new", models.IntegerField(null=True)),
        ops.AddField("Item", "new", models.IntegerField(db_default=1)),
        ops.AddField("Item", "new", key("shop.Tag", null=True, related_name="+")),
        ops.AddField("Item", "new", models.ManyToManyField("shop.Tag")),
        ops.AddField(
            "Item",
            "new",
            models.GeneratedField(expression=models.F("number"), output_field=models.IntegerField(), db_persist=True),
        ),
        change("text", models.CharField(max_length=50, default="", help_text="Words")),
        change("text", models.CharField(max_length=51)),
        change("text", models.TextField()),
        change("body", models.CharField()),
        change("code", models.CharField(max_length=10, unique=True)),
        change("text", models.CharField(max_length=50, null=True)),
        change("mail", models.URLField(max_length=200)),
        change("mail", models.FileField(max_length=50)),
        change("number", models.IntegerField(db_index=True)),
        change("count", models.IntegerField()),
        change("count", models.PositiveIntegerField(help_text="Pieces")),
        change("size", models.IntegerField(null=True)),
        change("colour", models.CharField(max_length=9, null=True)),
        change("tag", key("shop.Tag", blank=True)),
        change("tag", key("shop.Tag", db_constraint=False)),
        change("tags", models.ManyToManyField("shop.Tag", blank=True)),
        ops.AddIndex("Item", INDEX),
        AddIndexConcurrently("Item", INDEX),
        ops.AlterUniqueTogether("Item", {("text", "number")}),
        ops.AlterOrderWithRespectTo("Line", "item"),
        ops.RunPython(ops.RunPython.noop),
        apart(state=[ops.DeleteModel("Cheap"), ops.RemoveField("Item", "note")]),
    ],
    ids=describe,
)
def test_a_compatible_operation_is_not_reported(operation: Any) -> None:
    assert judged(operation) == []


@pytest.mark.parametrize(
    "operations",
    [
        [
            ops.AddIndex("Item", INDEX),
            ops.RenameIndex("Item", "of_number", old_name="by_number"),
            RemoveIndexConcurrently("Item", "of_number"),
        ],
        [apart(state=[ops.AddConstraint("Item", POSITIVE)]), ops.RemoveConstraint("Item", "positive")],
    ],
)
def test_indexes_and_constraints_may_go(operations: Any) -> None:
    assert judged(*operations) == []


def test_a_model_may_be_renamed_while_the_table_keeps_the_name() -> None:
    column = models.CharField(max_length=50, db_column="text")
    assert judged(change("text", column), ops.RenameField("Item", "text", "words")) == []
    assert judged(ops.AlterModelTable("Bare", "shop_bare"), ops.RenameModel("Bare", "Plain")) == []
    assert judged(ops.AlterModelTable("Item", "shop_item"), ops.RenameModel("Item", "Thing")) == [
        "renames shop.Item to Thing"
    ]
    assert judged(ops.AlterModelTable("Tag", "shop_tag"), ops.RenameModel("Tag", "Label")) == [
        "renames shop.Tag to Label"
    ]
    assert judged(ops.AlterModelTable("Brand", "shop_brand"), ops.RenameModel("Brand", "Make")) == []


def test_a_table_that_the_running_release_does_not_know_may_change() -> None:
    grown = [
        table("New", ("text", models.TextField())),
        ops.AddField("New", "number", models.IntegerField()),
        ops.AddConstraint("New", POSITIVE),
        ops.RemoveField("New", "text"),
        ops.DeleteModel("New"),
    ]
    assert judged(*grown) == []


def test_a_table_moved_to_another_app_is_still_known() -> None:
    taken = apart(state=[table("Mark", db_table="shop_item_tags")])
    assert judged(taken, ops.DeleteModel("Mark"), app="stock") == ["removes stock.Mark"]


def test_parts_of_an_operation_are_judged_in_sequence() -> None:
    first = ops.AddField("Item", "new", models.CharField(max_length=9, null=True))
    second = change("new", models.CharField(max_length=8, null=True))
    assert judged(apart(first, second)) == ["shop.Item.new: changes its type from varchar(9) to varchar(8)"]


def test_every_breaking_operation_of_every_migration_is_reported() -> None:
    breaks = plan.judge(
        [
            migration(
                "0002_a",
                "shop",
                [ops.RemoveField("Item", "note"), table("New"), ops.RenameField("Item", "text", "words")],
            ),
            migration("0003_b", "shop", [ops.RemoveField("Item", "words")]),
        ],
        running(),
        connections["tier"],
    )
    assert breaks == [
        "shop.0002_a removes shop.Item.note",
        "shop.0002_a renames shop.Item.text to words",
        "shop.0003_b removes shop.Item.words",
    ]


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with an app of two migrations; both break."""
    path = tmp_path_factory.mktemp("apps")
    (path / "store/migrations").mkdir(parents=True)
    (path / "store/__init__.py").touch()
    (path / "store/migrations/__init__.py").touch()
    for name, after, operation in [
        (
            "0001_initial",
            "",
            "migrations.RunSQL('select 1'), "
            "migrations.CreateModel('Item', [('id', models.AutoField(primary_key=True)), ('text', models.TextField())])",
        ),
        ("0002_change", "('store', '0001_initial')", "migrations.RemoveField('item', 'text')"),
    ]:
        (path / f"store/migrations/{name}.py").write_text(
            "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
            f"    dependencies = [{after}]\n    operations = [{operation}]\n"
        )
    return path


@pytest.fixture
def planned(
    apps: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Any]]:
    """The plan of a site with the app, by a database that has the app's migrations up to one, and other apps'."""
    monkeypatch.syspath_prepend(apps)
    monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / "database"))

    def run(upto: str | None = None, others: Any = ()) -> Any:
        if upto:
            with override_settings(INSTALLED_APPS=["store"]):
                call_command("migrate", "store", upto, verbosity=0)
        with override_settings(INSTALLED_APPS=["store", *others]):
            plan.main()
        output = capsys.readouterr().out
        assert output.count("\n") == 1
        return json.loads(output)

    yield run
    connection.close()


def test_nothing_breaks_before_the_first_release(planned: Callable[..., Any]) -> None:
    assert planned() == {"migrations": ["store.0001_initial", "store.0002_change"], "breaking": []}


def test_only_unapplied_migrations_are_judged(planned: Callable[..., Any]) -> None:
    assert planned("0001") == {
        "migrations": ["store.0002_change"],
        "breaking": ["store.0002_change removes store.item.text"],
    }
    assert planned("0002") == {"migrations": [], "breaking": []}


def test_an_app_that_is_new_breaks_nothing(planned: Callable[..., Any]) -> None:
    result = planned("0002", ["django.contrib.contenttypes", "django.contrib.auth"])
    assert "contenttypes.0002_remove_content_type_name" in result["migrations"]
    assert result["breaking"] == []


def test_a_migration_of_a_later_release_is_ignored(planned: Callable[..., Any]) -> None:
    planned("0001")
    MigrationRecorder(connection).record_applied("store", "0003_gone")
    assert planned()["breaking"] == ["store.0002_change removes store.item.text"]
