"""Strict YAML: every key is known, every value has its type; an error names file and line, key, value and remedy."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from linformers.checks import closest

T = TypeVar("T")
Places = dict[str, str]  # dotted key -> where its value comes from, for messages


class _Loader(yaml.SafeLoader):
    """YAML as people read it: ``1e-4`` is a number, and only true and false are booleans (not yes, no, on, off)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> tuple[dict[str, Any], Places]:
    """Read a mapping, and where each of its values stands.

    Raises:
        ValueError: broken YAML, a key twice, or no mapping at the top.
        OSError: no such file.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        places: Places = {}
        if node is None:
            return {}, places
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{path}:1: a recipe is a mapping of sections (model:, data:, training:, ...)")
        _note_places(node, "", path, places)
        return loader.construct_document(node), places
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); is it a recipe?") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: this is not YAML: {error.problem or error.context}") from error


def _note_places(node: yaml.Node, prefix: str, path: Path, places: Places) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else str(key.value)
            if name in places:
                raise ValueError(f"{path}:{key.start_mark.line + 1}: {name} stands here for the second time; keep one")
            places[name] = f"{path}:{key.start_mark.line + 1}"
            _note_places(value, name, path, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[f"{prefix}[{index}]"] = f"{path}:{value.start_mark.line + 1}"
            _note_places(value, f"{prefix}[{index}]", path, places)


def override(data: dict[str, Any], places: Places, assignments: Sequence[str]) -> None:
    """Apply ``section.key=value``; values are YAML, so ``data.files=[a.txt, b.txt]`` is a list.

    Raises:
        ValueError: not of this form, or a key below a value that is no section.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"{assignment!r} is no section.key=value, for instance training.steps=1000")
        try:
            value = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"{assignment!r}: the value is not YAML; quote it: {name}='\"...\"'") from error
        section = data
        for depth, key in enumerate(keys[:-1]):
            below = section.get(key)
            if below is None:
                below = section[key] = {}
            if not isinstance(below, dict):
                raise ValueError(f"{assignment!r}: {'.'.join(keys[: depth + 1])}={below!r} has no keys below it")
            section = below
        section[keys[-1]] = value
        stale = [place for place in places if place.startswith((f"{name}.", f"{name}["))]
        for place in stale:
            del places[place]
        places[name] = assignment


def build(kind: type[T], data: Mapping[str, Any], places: Places, prefix: str = "") -> T:
    """A dataclass, and the dataclasses in its fields, from plain data.

    Raises:
        ValueError: an unknown or a missing key, or a value that the dataclass refuses.
        TypeError: a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if key not in fields:
            known = list(all_keys(kind, prefix))
            tail = {full.rpartition(".")[2]: full for full in known}
            hint = closest(name, known) or closest(str(key), fields)
            if prefix == "" and str(key) in tail:  # steps=10 for training.steps=10
                hint = f" Did you mean {tail[str(key)]!r}?"
            raise ValueError(f"{_at(name, places)}{name} is no key of a recipe.{hint}")
        values[key] = convert(value, hints[key], name, places)
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_at(prefix.rstrip('.'), places)}{prefix}{name} is missing; give it")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{_blame(error, prefix, fields, places)}{error}") from error


def convert(value: Any, hint: Any, name: str, places: Places) -> Any:
    """Check a value against a type hint; whole numbers pass for floats, lists become tuples.

    Raises:
        TypeError: it does not fit.
        ValueError: it is none of the choices.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not type(None)]
        for kind in kinds[:-1]:
            if _fits(value, kind):
                return convert(value, kind, name, places)
        return convert(value, kinds[-1], name, places)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            choices = ", ".join(map(str, arguments))
            hint_text = closest(str(value), map(str, arguments))
            raise ValueError(f"{_at(name, places)}{name}={value!r} is unknown: choose one of {choices}.{hint_text}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{_at(name, places)}{name} must be a list, got {value!r}; write [{value}]")
        return tuple(convert(item, arguments[0], f"{name}[{i}]", places) for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise TypeError(f"{_at(name, places)}{name} must be a section with keys below it, got {value!r}")
        return build(typing.cast(type, hint), value, places, f"{name}.")
    if origin is dict or hint is dict:
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise TypeError(f"{_at(name, places)}{name} must be a section with keys below it, got {value!r}")
        return dict(value)
    if not _fits(value, hint):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise TypeError(f"{_at(name, places)}{name}={value!r} must be {words.get(hint, hint)}")
    return float(value) if hint is float else value


def _fits(value: Any, kind: Any) -> bool:
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return kind is bool
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list | tuple)
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if not isinstance(kind, type):
        return True
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def all_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys, sections included."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from all_keys(hints[field.name], f"{prefix}{field.name}.")


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """What changed between two trees of plain values, one line for each value."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        missing = "(not set)"
        return [
            line
            for key in keys
            for line in differences(before.get(key, missing), now.get(key, missing), f"{prefix}{key}.")
        ]
    return [] if before == now else [f"{prefix.rstrip('.')} was {before!r} and is now {now!r}"]


def _at(name: str, places: Places) -> str:
    place = places.get(name)
    return f"{place}: " if place and "=" not in place else ""


def _blame(error: Exception, prefix: str, fields: Mapping[str, Any], places: Places) -> str:
    """Place and section of the first field that a message names, unless it is placed already."""
    text = str(error)
    if any(text.startswith(f"{place}: ") for place in places.values()):
        return ""
    name = next((name for name in fields if re.match(rf"{re.escape(name)}\b", text)), None)
    return "" if name is None else f"{_at(prefix + name, places)}{prefix}"
