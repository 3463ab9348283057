"""``rich`` (the extra ``cli``): the one place where it is imported.

Raises:
    MissingDependency: When this module is imported, and ``rich`` is not installed.
"""

from __future__ import annotations

from ..errors import MissingDependency

try:
    from rich.cells import cell_len
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise MissingDependency("rich", extra="cli") from None

__all__ = ["Console", "Group", "Live", "Padding", "Panel", "RenderableType", "Table", "Text", "cell_len"]
