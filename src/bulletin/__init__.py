"""Bulletin: run one-off container tasks, at most once, with a durable outcome."""
