"""The CMS of tests/projects/cms under pg_tenants and under its rivals, each with settings of its own."""
