"""Images: references, registries, the local store, unpacking.

The faces are ``api`` (what the container room asks), ``store.ImageStore`` and ``settings.ImageSettings``.
"""
