"""What surrounds a tenant's tables; each module is switched on by itself."""

from __future__ import annotations
