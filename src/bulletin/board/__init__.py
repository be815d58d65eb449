"""The server: the only writer of tasks."""
