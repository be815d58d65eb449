"""The container room: real containers behind ``api.Runtime``."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from typing import Final

from bulletin.cell.images.api import ImageRefused, ImageSource
from bulletin.cell.runtime.api import ContainerOrder, ContainerRefused, DestroyFailed
from bulletin.cell.runtime.container import OneContainer, Plan
from bulletin.cell.runtime.machine import Machine, open_machine
from bulletin.cell.runtime.settings import ContainersSettings
from bulletin.cell.runtime.shifted import ShiftedImages

__all__ = ["Containers", "ContainersSettings"]

#: How long after a move of a process the next one is sure not to wait.
_ROUSED_SECONDS: Final = 0.005
_GUID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")


class Containers:
    """Makes containers on this machine with an OCI runtime."""

    def __init__(self, settings: ContainersSettings, images: ImageSource) -> None:
        self._settings = settings
        self._images = images
        self._shifted = ShiftedImages(settings.shifted, settings.ids)
        self._machine: Machine | None = None
        #: Guids in use, from the first moment of ``create`` to the end of ``destroy``.
        self._taken: set[str] = set()
        self._containers: dict[str, OneContainer] = {}
        self._roused_at = -math.inf
        self._rousing: set[asyncio.Task[None]] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._abandoning: set[asyncio.Task[None]] = set()

    @property
    def engine(self) -> str:
        """Name of the engine in use; empty when the room is not open."""
        return "" if self._machine is None else self._machine.engine.name

    async def open(self) -> None:
        """See ``api.Runtime``."""
        assert self._machine is None, "open already"
        self._machine = await open_machine(self._settings)

    async def create(self, order: ContainerOrder) -> OneContainer:
        """See ``api.Runtime``."""
        if not _GUID.fullmatch(order.guid) or order.guid in self._taken:
            raise ContainerRefused("container guid not available")
        if order.definition.volume_mounts:
            raise ContainerRefused("this cell has no volume drivers")
        self._taken.add(order.guid)
        self._rouse_kernel()
        try:
            plan = await self._plan(order)
            # From here on the room may not close without the container: no await in between.
            container = OneContainer(plan, self._open_machine(), lambda: self._forget(order.guid))
            self._containers[order.guid] = container
        except BaseException:
            self._taken.discard(order.guid)
            raise
        making = asyncio.ensure_future(container.make())
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            await asyncio.shield(making)
        except BaseException:
            abandoning = asyncio.ensure_future(_abandon(making, container))
            self._abandoning.add(abandoning)
            abandoning.add_done_callback(self._abandoning.discard)
            await asyncio.shield(abandoning)
            raise
        return container

    async def close(self) -> None:
        """See ``api.Runtime``. What cannot be destroyed now is swept away by the next ``open``."""
        machine, self._machine = self._machine, None
        if machine is None:
            return
        await asyncio.gather(*self._making, *self._rousing, return_exceptions=True)
        await asyncio.gather(*self._abandoning)
        results = await asyncio.gather(
            *(container.destroy() for container in tuple(self._containers.values())), return_exceptions=True
        )
        await self._shifted.close()
        await machine.close()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, DestroyFailed):
                raise result

    async def _plan(self, order: ContainerOrder) -> Plan:
        definition = order.definition
        try:
            image = await self._images.ensure(definition.root_fs, definition.image_username, definition.image_password)
        except ImageRefused as error:
            raise ContainerRefused(str(error)) from error
        if definition.privileged or self._open_machine().user_namespace is not None:
            return Plan(order, image.rootfs, image.env)
        return Plan(order, await self._shifted.ensure(image), image.env)

    def _rouse_kernel(self) -> None:
        """Begin to wait now for what the engine would wait for later, unless it has just been waited for."""
        now = time.monotonic()
        if self._machine is not None and now - self._roused_at > _ROUSED_SECONDS:
            self._roused_at = now
            rousing = asyncio.ensure_future(asyncio.to_thread(self._machine.cgroups.rouse))
            self._rousing.add(rousing)
            rousing.add_done_callback(self._rousing.discard)

    def _open_machine(self) -> Machine:
        if self._machine is None:
            raise ContainerRefused("the cell is closing")
        return self._machine

    def _forget(self, guid: str) -> None:
        del self._containers[guid]
        self._taken.discard(guid)


async def _abandon(making: asyncio.Task[None], container: OneContainer) -> None:
    """Remove what was made of a container that nobody will get. What resists stays with the room."""
    await asyncio.wait((making,))
    if not making.cancelled():
        making.exception()  # It has been told, or there is nobody to tell.
    with contextlib.suppress(DestroyFailed):
        await container.destroy()
