"""A project whose work is done by Celery, django.tasks and Channels, in processes of their own."""
