"""The report as a page: HTML and SVG without scripts, made by hand."""

from .html import fragment, page

__all__ = ["fragment", "page"]
