"""Templates escape every value by default, in HTML and in Markdown, and refuse a name that is
missing."""

from __future__ import annotations

import pytest
from jinja2 import Environment, UndefinedError

from components.core.templates import html_environment, markdown_environment

HOSTILE = '<b title="x">|*\x1b\u202e</b>'


@pytest.fixture(params=["html", "markdown"])
def environment(request: pytest.FixtureRequest) -> Environment:
    """Both environments."""
    make = html_environment if request.param == "html" else markdown_environment
    return make("components.report")


def test_html_values_are_escaped_and_control_characters_are_visible() -> None:
    html = (
        html_environment("components.report")
        .from_string('<i title="{{ x }}">{{ x }}</i>')
        .render(x=HOSTILE)
    )
    text = "&lt;b title=&#34;x&#34;&gt;|*\u241b\ufffd&lt;/b&gt;"
    assert html == f'<i title="{text}">{text}</i>'


def test_markdown_values_are_escaped_and_the_text_of_the_template_is_not() -> None:
    markdown = (
        markdown_environment("components.report")
        .from_string("**{{ x }}** {{ n }}")
        .render(x=HOSTILE, n=1)
    )
    assert markdown == '**&lt;b title="x"&gt;\\|\\*\u241b\ufffd&lt;/b&gt;** 1'


def test_a_value_is_escaped_once_through_macros_filters_and_joins(environment: Environment) -> None:
    template = environment.from_string(
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(x) }} {{ [x, 'y'] | join('&') }}"
    )
    assert template.render(x="<") == "&lt; &lt;&amp;y"


def test_a_missing_name_is_an_error(environment: Environment) -> None:
    with pytest.raises(UndefinedError):
        environment.from_string("{{ missing }}").render()
    with pytest.raises(UndefinedError):
        environment.from_string("{{ x.missing }}").render(x={})


def test_code_and_tables_are_markdown() -> None:
    environment = markdown_environment("components.report")
    assert environment.from_string("{{ x | code }}").render(x="a_*b*`c") == "`` a_*b*`c ``"
    table = environment.from_string("{{ table(['a'], [[x], [x | code]]) }}").render(x="|")
    assert table == "| a |\n| --- |\n| \\| |\n| `\\|` |"
    assert environment.from_string("{{ 1234567 | thousands }}").render() == "1,234,567"
