"""Strict settings and the YAML that they are written in: a mistake is told by file and line, key, value and remedy."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from linformers.checks import closest

ModelT = TypeVar("ModelT", bound="StrictModel")
Places = dict[str, str]  # dotted key -> file:line, or nothing for what the command line gives; "" = the whole

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]

# By pydantic's type of error.
_MESSAGES = {
    "missing": "{name} is missing; give it",
    "int_type": "{name}={value!r} must be a whole number",
    "float_type": "{name}={value!r} must be a number",
    "finite_number": "{name}={value!r} must be a finite number",
    "bool_type": "{name}={value!r} must be true or false",
    "string_type": "{name}={value!r} must be text",
    "greater_than_equal": "{name} must be at least {ge:g}, got {value!r}: give a larger one.",
    "greater_than": "{name}={value!r} must be above {gt:g}",
    "less_than": "{name}={value!r} must be below {lt:g}",
    "tuple_type": "{name} must be a list, got {value!r}; write [{value}]",
    **dict.fromkeys(
        ("model_type", "dict_type", "dataclass_type"), "{name} must be a section with keys below it, got {value!r}"
    ),
}


class StrictModel(BaseModel):
    """Settings that a person writes: every key is known, every value has its type, and none changes afterwards.

    Whole numbers pass for floats, lists for tuples, and nothing for an empty section; no other value is converted.

    Raises:
        ValueError: a key that is unknown or missing, or a value that does not do; in one line, with the remedy.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(_explain(error, type(self), values, {})) from error

    # What stands in a field is validated, not made by __init__: pydantic then knows where in the whole it stands.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return {} if data is None else data
        return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        """Raise ``ValueError``, with a text that begins with a key, where values do not go together."""


class RunSettings(StrictModel):
    """Settings of a command, which its run folder keeps: the same ones go on with the run.

    Args:
        output: Path of the run folder.
    """

    output: str

    def as_json(self) -> str:
        """What the folder keeps."""
        return self.model_dump_json(indent=1) + "\n"

    def differences(self, plan: Path) -> list[str]:
        """What the settings kept at a path have that is different; where a run is does not count.

        An option that is younger than the run has its default there.
        """
        defaults = type(self).model_construct().model_dump(mode="json")
        kept = {**defaults, **json.loads(plan.read_text(encoding="utf-8")), "output": ""}
        return differences(kept, {**self.model_dump(mode="json"), "output": ""})


def build(kind: type[ModelT], data: Mapping[str, Any], places: Places | None = None, prefix: str = "") -> ModelT:
    """Settings from plain values.

    Args:
        kind: Class of the settings.
        data: Values by key.
        places: Places of the keys, for messages.
        prefix: Start of the keys' names in messages, for what is a part of something.

    Raises:
        ValueError: a key that is unknown or missing, or a value that does not do; with its place.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError(_explain(error, kind, data, places or {}, prefix)) from error


def _explain(error: ValidationError, kind: type[BaseModel], data: Any, places: Places, prefix: str = "") -> str:
    """The mistake to mend first, in one line.

    An unknown key goes first, as it may be the one that is missing. Then what lies deepest: of the alternatives of a
    field, the one that fits best.
    """
    found = [(_keys(one["loc"], data), one) for one in error.errors(include_url=False)]
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    keys, one = max(found, key=lambda pair: (pair[1]["type"] in unknown, len(pair[0])))
    if one["type"] == "missing":
        keys = (*keys, one["loc"][-1])
    name = prefix + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    value, context = one["input"], one.get("ctx", {})
    if one["type"] in unknown:
        text = f"{name} is no key of a recipe.{_nearest(name, kind, prefix)}"
    elif one["type"] == "literal_error":
        choices = re.findall(r"'(.*?)'", context["expected"])
        text = f"{name}={value!r} is unknown: choose one of {', '.join(choices)}.{closest(str(value), choices)}"
    elif one["type"] == "value_error":  # one of ours, which begins with the key that it blames
        text = f"{name}.{context['error']}" if keys else f"{prefix}{context['error']}"
        name = re.sub(r"[^\w.\[\]].*", "", text)
    else:
        text = _MESSAGES.get(one["type"], "{name}={value!r}: {told}").format(
            name=name, value=value, told=one["msg"], **context
        )
    place = _place(name, places)
    return f"{place}: {text}" if place else text


def _keys(loc: tuple[int | str, ...], data: Any) -> tuple[int | str, ...]:
    """The keys of a location, without pydantic's names of a field's alternatives, which are no keys of the data."""
    keys = []
    for key in loc:
        if isinstance(key, int) or (isinstance(data, Mapping) and key in data):
            keys.append(key)
            data = data[key]
    return tuple(keys)


def _place(name: str, places: Places) -> str:
    """Where a key stands; where one is not there, where the section does that it would stand in."""
    while name and name not in places:
        name = re.sub(r"[.\[]?[^.\[]*$", "", name)
    return places.get(name, "")


def _nearest(name: str, kind: type[BaseModel], prefix: str) -> str:
    """A hint at the key that was meant, or nothing."""
    schema = kind.model_json_schema()
    known = [prefix + key for key in _all_keys(schema, schema.get("$defs", {}))]
    if at_home := [key for key in known if key.endswith(f".{name}")]:  # steps=10 for training.steps=10
        return f" Did you mean {at_home[0]!r}?"
    return closest(re.sub(r"\[\d+\]", "", name), known)


def _all_keys(schema: Mapping[str, Any], parts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a JSON schema, sections included."""
    for key, field in schema.get("properties", {}).items():
        yield f"{prefix}{key}"
        for part in re.findall(r'"#/\$defs/(\w+)"', json.dumps(field)):
            yield from _all_keys(parts[part], parts, f"{prefix}{key}.")


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
    places: Places = {"": f"{path}:1"}
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
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
        inside = [(f"{prefix}.{key.value}".lstrip("."), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inside = [(f"{prefix}[{index}]", value, value) for index, value in enumerate(node.value)]
    else:
        return
    for name, start, value in inside:
        if name in places:
            raise ValueError(f"{path}:{start.start_mark.line + 1}: {name} stands here for the second time; keep one")
        places[name] = f"{path}:{start.start_mark.line + 1}"
        _note_places(value, name, path, places)


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
        for depth, key in enumerate(keys[:-1], start=1):
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise ValueError(f"{assignment!r}: {'.'.join(keys[:depth])}={section!r} has no keys below it")
        section[keys[-1]] = value
        for place in [place for place in places if place.startswith((f"{name}.", f"{name}["))]:
            del places[place]
        places[name] = ""
