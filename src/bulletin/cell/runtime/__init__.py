"""Containers through an OCI runtime."""
