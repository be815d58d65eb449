"""Certificates that end soon: what nobody looks at until everything stops."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

__all__ = ["tell_end"]

_SOON: Final = dt.timedelta(days=30)


def tell_end(cert: Path, now: dt.datetime) -> str:
    """When the certificate ends and what to do, if that is within 30 days or was before; else "".

    Args:
        cert: a PEM file that could be used a moment ago.
        now: aware.
    """
    # It takes a tenth of a second, which commands of people need not spend.
    from bulletin.trust.authority import read_certificate

    try:
        end = read_certificate(cert.read_bytes()).not_after
    except OSError as error:  # TrustError among them: it is being replaced, or is none of our kind
        return f"{cert}: cannot be looked at: {error}"
    if end - now > _SOON:
        return ""
    ends = "ended" if end <= now else "ends"
    return f"{cert}: {ends} on {end:%Y-%m-%d %H:%M} UTC; renew it with `bulletin certs renew`"
