"""The OCI configuration of a container, as a pure function."""
