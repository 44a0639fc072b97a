"""Text where a path is expected: callers in Python may give either."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def takes_paths(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function take text for each parameter that is annotated as a path, a sequence or a mapping of paths.

    A single path where several are expected is a sequence of one.

    >>> @takes_paths
    ... def names(paths: Sequence[Path], out: Path | None = None) -> list[str]:
    ...     return [path.name for path in paths]
    >>> names("photos/a.jpg")
    ['a.jpg']
    """

    @functools.wraps(function)
    def with_paths(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        bound = inspect.signature(function).bind(*args, **kwargs)
        hints = typing.get_type_hints(function)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _converted(hints.get(name), value)
        return function(*bound.args, **bound.kwargs)

    return with_paths


def _converted(hint: Any, value: Any) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    match typing.get_origin(hint):
        case origin if origin is Sequence and options == [Path]:
            return [Path(item) for item in ([value] if isinstance(value, str | Path) else value)]
        case origin if origin in (Mapping, dict) and options == [str, Path] and isinstance(value, Mapping):
            return {key: Path(item) for key, item in value.items()}
    is_path = hint is Path or (Path in options and str not in options)
    if is_path and isinstance(value, str) and not any(value in typing.get_args(option) for option in options):
        return Path(value)  # and no word that the parameter takes beside paths
    return value
