"""Logging, trace ids and metrics."""
