"""Jinja2 environments for HTML and for Markdown that escape every value of a template.

Both keep autoescaping on; they differ in what they do to a value before it is written. The HTML
environment makes control characters visible and lets Jinja2 escape the value. The Markdown
environment escapes Markdown and marks the result as safe. Output of a macro, `code`, `code_block`
and `table` is `Markup` and passes unchanged. A name that is missing is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from components.core import markdown


@cache
def html_environment(package: str) -> Environment:
    """Templates of a package's folder `templates`, for HTML and SVG."""
    return _environment(package, _html_value)


@cache
def markdown_environment(package: str) -> Environment:
    """Templates of a package's folder `templates`, for Markdown; with the function `table` and the
    filters `code`, `code_block` and `thousands`."""
    environment = _environment(package, _markdown_value)
    environment.globals["table"] = markdown.escaped_table
    environment.filters["code"] = markdown.code
    environment.filters["thousands"] = "{:,}".format
    environment.filters["code_block"] = markdown.code_block
    return environment


def _environment(package: str, finalize: Callable[[object], object]) -> Environment:
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _html_value(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return markdown.printable(value)
    return value


def _markdown_value(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return Markup(markdown.escape(value))  # noqa: S704 - escaped for Markdown
    return value
