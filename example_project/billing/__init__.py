"""Invoices of all tenants, in the schema billing."""
