"""The parts of the ``demo`` command: the database, the site, and the check."""
