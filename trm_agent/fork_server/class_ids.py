"""Importing this lets Ray draw the ids of actors' classes from the system, and not from its own generator.

Ray draws one as a class is decorated, so that an import does. All forks of the importing process would then share the
state of that generator, which cannot be seeded anew: two workers that start together would warm Ray's store with one
id, and the later one would end ("Check failed: WarmupStore").
"""

import os

import ray.actor
from ray._raylet import ActorClassID


class DrawnFromSystem:
    """Stands in for Ray's class of these ids where actors' classes are decorated."""

    @staticmethod
    def from_random() -> ActorClassID:
        """Return a new id."""
        return ActorClassID(os.urandom(ActorClassID.size()))


if not hasattr(ray.actor, "ActorClassID"):
    raise ImportError("ray.actor.ActorClassID is gone: forks would share Ray's random ids; install ray 2.60")
vars(ray.actor)["ActorClassID"] = DrawnFromSystem
