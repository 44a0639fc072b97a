"""What counts as true, and what a metrics file holds: types alone."""

from typing import Any, Literal

Truth = Literal["observed", "captions", "tags", "true"]
Metrics = dict[str, Any]
