"""Making and removing tenants' schemas: ``run`` does it, ``adopt`` takes over what is there."""
