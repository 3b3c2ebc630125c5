"""What is known of volumes: their records, and who keeps the data of each."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cove.engine.containers.records import VolumeRecord
from cove.engine.context import Context
from cove.errors import NotFound
from cove.store.documents import Documents
from cove.volume.driver import Driver


class VolumeRecords:
    """The records of all volumes by name, on disk and in memory; `VolumeService` alone changes them."""

    def __init__(self, context: Context) -> None:
        self._drivers = context.volume_drivers
        self._documents = Documents(context.database, "volumes", VolumeRecord, key="name")
        self._known: dict[str, VolumeRecord] = {}

    def load(self) -> None:
        """Read what is written down; a rename that a crash cut short has happened, or has not."""
        self._known.update(self._documents.load())
        for record in [each for each in self if each.was]:
            driver = self.driver(record)
            if driver is not None and driver.exists(record.name):
                self.put(msgspec.structs.replace(record, was=""))
                self.delete(record.was)
            else:
                self.delete(record.name)

    def __iter__(self) -> Iterator[VolumeRecord]:
        """Those that there are now, whatever is made or removed meanwhile."""
        return iter(list(self._known.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def get(self, name: str) -> VolumeRecord | None:
        return self._known.get(name)

    def find(self, name: str) -> VolumeRecord:
        """NotFound when there is none."""
        record = self._known.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def driver(self, record: VolumeRecord) -> Driver | None:
        """Who keeps the volume's data here; None when a plugin does."""
        return self._drivers.get(record.driver)

    def intend(self, record: VolumeRecord) -> None:
        """Write down what is being made; it is not there before `appear`."""
        self._documents.put(record.name, record)

    def appear(self, record: VolumeRecord) -> None:
        """What was intended is there."""
        self._known[record.name] = record

    def put(self, record: VolumeRecord) -> None:
        """Write down, and show, what is so now."""
        self.intend(record)
        self.appear(record)

    def delete(self, name: str) -> None:
        """Forget it; does nothing when it is not known."""
        self._documents.delete(name)
        self._known.pop(name, None)
