"""The pure heart: values and decisions. No I/O, no clock, no chance, no asyncio, no logging."""
