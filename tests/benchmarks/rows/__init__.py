"""The app of the request benchmark."""
