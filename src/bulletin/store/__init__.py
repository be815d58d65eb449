"""Durable tasks behind one small Protocol."""
