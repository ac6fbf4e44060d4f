"""Commands whose modules are imported when they are run: `torchproof --help` waits for none of
them, and a command waits for its own alone.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

PACKAGE = "torchproof.cli"


class Commands(Mapping[str, Any]):
    """Commands by name, each imported when it is looked up. table: name -> module of the package,
    whose function of that name is the command; after a colon, the name of a Typer with more.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self.table = table
        self.loaded = cache(self._load)

    def __getitem__(self, name: str) -> Any:
        if name not in self.table:
            raise KeyError(name)
        return self.loaded(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def _load(self, name: str) -> Any:
        module, _, group = self.table[name].partition(":")
        found = getattr(import_module(f"{PACKAGE}.{module}"), group or module)
        if group:
            command: Any = typer.main.get_group(found)
        else:
            alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
            alone.command(name)(found)
            command = typer.main.get_command(alone)
        command.name = name
        return command

    def help(self, name: str) -> str:
        """What the command says of itself, read from its file without running that."""
        module, _, group = self.table[name].partition(":")
        spec = find_spec(f"{PACKAGE}.{module}")
        assert spec is not None and spec.origin is not None
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == module and not group:
                return ast.get_docstring(node) or ""
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == group:
                assert isinstance(node.value, ast.Call)
                told = [k.value for k in node.value.keywords if k.arg == "help"]
                return inspect.cleandoc(str(ast.literal_eval(told[0]))) if told else ""
        return ""


class Later(TyperCommand):
    """A command by its name and help; what runs is the command itself."""

    def __init__(self, name: str, commands: Commands) -> None:
        super().__init__(name, help=commands.help(name), rich_markup_mode="markdown")
        self.commands = commands

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **named: Any) -> Any:
        return self.commands[self.name or ""].make_context(info_name, args, *more, **named)


class Lazily(TyperGroup):
    """A group of the commands of `table`, in its order."""

    table: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands(self.table)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known: Any = self.commands
        return Later(cmd_name, known) if cmd_name in self.table else None
