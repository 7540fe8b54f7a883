"""Texts from the templates of this folder: HTML is escaped, and a name that is not given is an error."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

TEMPLATES = Environment(
    loader=PackageLoader("linformers.report"),
    autoescape=select_autoescape(disabled_extensions=["md"], default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["number"] = lambda value, how=",": format(value, how)
TEMPLATES.tests["of_type"] = lambda value, name: type(value).__name__ == name


def render(template: str, **given: object) -> str:
    """The text of a template with its names filled in."""
    return TEMPLATES.get_template(template).render(given)
