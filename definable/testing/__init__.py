"""For tests of agents: virtual time for both backends, and the model that needs no network."""

from definable.model.offline import OfflineModel

from .virtual_time import VIRTUAL_BACKENDS, VirtualClock, run, virtual_clock, virtual_time

__all__ = ["OfflineModel", "VIRTUAL_BACKENDS", "VirtualClock", "run", "virtual_clock", "virtual_time"]
