"""An example of pg_tenants: companies that share one database, each with notes and invoices of its own."""
