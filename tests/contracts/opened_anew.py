"""Drivers of the device's database as a device that is started again and again has them."""

import functools

from edge_agent.drivers.sqlite_store import Database


class OpenedAnew:
    """A driver in a new process, as it were, at every call: what it promises outlives each."""

    def __init__(self, path, driver):
        self._path, self._driver = path, driver

    def __getattr__(self, name):
        return functools.partial(self._call, name)

    def _call(self, name, *arguments):
        database = Database(self._path)
        try:
            return getattr(self._driver(database), name)(*arguments)
        finally:
            database.close()
