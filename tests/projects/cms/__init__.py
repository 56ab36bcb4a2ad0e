"""A real content management system, which each tenant has to itself: Wagtail, for measures and for tests of size."""
