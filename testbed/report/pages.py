"""What the project's HTML pages share: how they are made, and their looks (`base.css`)."""

from __future__ import annotations

import functools

import jinja2

from testbed.report.shown import shown, told


@functools.cache
def templates(package: str) -> jinja2.Environment:
    """The templates beside a package's modules; ``base.css`` can be included in each.

    Everything is escaped, and what would do something rather than be seen is shown as Python writes it.
    """
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, "."), jinja2.PackageLoader("testbed.report", ".")]
        ),
        # a macro's text is markup already, and no `str` by its type
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    environment.filters["told"] = told
    return environment
