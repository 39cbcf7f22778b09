"""Functions that hand their options on: the options in their signatures, misspelt ones named."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from densenet_nb.checks import require_known_keywords

__all__ = ["names_misspelt_keywords", "takes_options_of"]


def names_misspelt_keywords(function: Callable) -> Callable:
    """Make an unknown keyword's error name the one that was probably meant."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        require_known_keywords(kwargs, known, function.__name__)
        return function(*args, **kwargs)

    return checked


def takes_options_of(builder: Callable, **defaults: Any) -> Callable[[Callable], Callable]:
    """Give a function the options of `builder`, but for its first, with other `defaults`.

    They stand in the function's signature, in the place of its ``**options``, so help and
    completion show them.
    """
    _, *options = inspect.signature(builder).parameters.values()

    def decorate(function: Callable) -> Callable:
        *own, _ = inspect.signature(function).parameters.values()
        options_here = (
            option.replace(default=defaults.get(option.name, option.default)) for option in options
        )
        signature = inspect.Signature(
            sorted([*own, *options_here], key=lambda parameter: parameter.kind),
            return_annotation=inspect.signature(builder).return_annotation,
        )

        @functools.wraps(function)
        def network(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(*args, **kwargs)
            arguments.apply_defaults()
            return function(**arguments.arguments)

        network.__signature__ = signature
        return names_misspelt_keywords(network)

    return decorate
