"""Who the tenants are: their rows and their hosts, in the schema public."""
