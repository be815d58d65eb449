"""The agent: runs containers on one machine."""
