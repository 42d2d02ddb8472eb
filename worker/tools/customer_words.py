"""What the model is told of a customer."""

from collections.abc import Mapping
from typing import Any, Final

from worker.tools import written

FIELDS: Final = ("name", "phone", "status", "locale")


def told(customer: Mapping[str, Any]) -> dict[str, Any]:
    """Tell of a customer what is known, each value on one short line."""
    return {field: written.cut(customer[field], written.MAX_NAME_CHARS) for field in FIELDS if customer.get(field)}
