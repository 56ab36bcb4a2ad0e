"""A tenant's notes, in the tenant's own schema."""
