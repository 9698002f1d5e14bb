"""Options that the programs of several verbs have."""

import argparse
import pathlib


def add_inventory(parser: argparse.ArgumentParser) -> None:
    """Add --inventory, a path."""
    parser.add_argument("--inventory", required=True, type=pathlib.Path, help="inventory of the environment")


def add_extra_vars(parser: argparse.ArgumentParser) -> None:
    """Add -e, which may be repeated, as ansible-playbook takes it."""
    parser.add_argument("-e", "--extra-vars", action="append", default=[], help="variables laid over the environment's")


def parser_of(documentation: str | None) -> argparse.ArgumentParser:
    """The parser of a program for one environment. documentation: of its module, printed by --help."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_inventory(parser)
    return parser


def extra_vars(args: argparse.Namespace) -> list[str]:
    """Options of ansible-playbook for the variables that -e gave."""
    return [word for value in args.extra_vars for word in ("-e", value)]
