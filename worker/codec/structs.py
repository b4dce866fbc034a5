"""The types of an update record as Structs of msgspec, derived from the TypedDicts of `model`.

msgspec decodes a record's bytes into Structs in a fifth of the time that pydantic takes to validate them, and encodes a
snapshot's cart from the Structs. The Structs accept only values that the TypedDicts accept. pydantic judges the values
that the Structs refuse, such as `2.0` for the integer 2. A field that is omitted or null is None and is not written.
"""

from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

from msgspec import Meta, Struct, defstruct
from pydantic.fields import FieldInfo
from typing_extensions import get_type_hints, is_typeddict

from worker.domain.model import EmptyArray

_LIMITS = ("min_length", "max_length", "ge", "gt", "lt", "pattern")


@cache
def struct_of(typed_dict: type, *, forbid_unknown_fields: bool = True) -> type[Struct]:
    """Return the Struct of a TypedDict and of the TypedDicts in it; the fields keep their order."""
    required: frozenset[str] = typed_dict.__required_keys__  # type: ignore[attr-defined]
    fields: list[tuple[str, Any] | tuple[str, Any, None]] = []
    for name, hint in get_type_hints(typed_dict, include_extras=True).items():
        derived = _derived(hint, forbid=forbid_unknown_fields)
        fields.append((name, derived) if name in required else (name, derived | None, None))
    return defstruct(
        typed_dict.__name__,
        fields,
        kw_only=True,
        omit_defaults=True,
        forbid_unknown_fields=forbid_unknown_fields,
        gc=False,
    )


def _derived(hint: Any, *, forbid: bool) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return struct_of(hint, forbid_unknown_fields=forbid)
    if origin in (Required, NotRequired):
        return _derived(arguments[0], forbid=forbid)
    if origin in (Union, UnionType):
        return reduce(or_, [_derived(argument, forbid=forbid) for argument in arguments])
    if origin in (list, dict):
        return origin[tuple(_derived(argument, forbid=forbid) for argument in arguments)]
    if origin is Annotated:
        limits = _limits(hint.__metadata__)
        derived = _derived(arguments[0], forbid=forbid)
        if any(isinstance(mark, EmptyArray) for mark in hint.__metadata__):
            return derived | Annotated[list[Any], Meta(max_length=0)]
        return Annotated[derived, limits] if limits is not None else derived
    return hint


def _limits(metadata: tuple[object, ...]) -> Meta | None:
    """Return the limits of pydantic's fields as a Meta; an integer, whose limits are in a schema, has a Meta already."""
    given: dict[str, Any] = {}
    for mark in metadata:
        if isinstance(mark, Meta):
            return mark
        if isinstance(mark, FieldInfo):
            given |= {
                name: value
                for limit in mark.metadata
                for name in _LIMITS
                if (value := getattr(limit, name, None)) is not None
            }
    return Meta(**given) if given else None
