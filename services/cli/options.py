"""Options that several commands have, and how large their numbers may be."""

from __future__ import annotations

from typing import Annotated, Final

import typer

#: Of whatever the database numbers; a tenant's may be negative.
LARGEST_ID: Final = 2**63 - 1
SMALLEST_TENANT: Final = -LARGEST_ID - 1

OfTenant = Annotated[
    int | None, typer.Option("--tenant", min=SMALLEST_TENANT, max=LARGEST_ID, help="Only what is this tenant's.")
]
