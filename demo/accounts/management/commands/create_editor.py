import os
import sys
from getpass import getpass

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = (
        "Create an editor, who may work on all stories and the ledger, here and in the admin site. "
        "The password comes from the environment variable EDITOR_PASSWORD or else from standard input, "
        "never from the command line, where every user of the machine could read it. "
        "Run again, it sets the password anew."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default="editor")
        parser.add_argument("--apps", nargs="+", default=["budget", "ledger"], help="applications to work on")

    def handle(self, *, username: str, apps: list[str], **options: object) -> None:
        password = os.environ.get("EDITOR_PASSWORD") or (
            getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        )
        users = get_user_model()
        editor = users.objects.filter(username=username).first() or users(username=username)
        try:
            editor.full_clean(exclude=["password"])
            validate_password(password, editor)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        created = editor.pk is None
        if created or not editor.is_staff or not editor.check_password(password):
            # An unchanged password is left alone: setting it again would sign the editor out everywhere.
            editor.is_staff = True
            editor.set_password(password)
            editor.save()
        editor.user_permissions.add(*Permission.objects.filter(content_type__app_label__in=apps))
        self.stdout.write(f"{username} {'created' if created else 'was there already'}")
