"""Mitogen's linear strategy, on every core: what MITOGEN=1 runs plays with.

Mitogen pins its multiplexer to the first core and shares out the others. On a machine with two cores
that leaves one for everything else: the controller, all its workers and their ssh.
Source: ansible_mitogen/affinity.py, FixedPolicy.

It also looks for all installed collections in each worker that runs a module of one, 0.1 s of its time: here they are found once.
Source: ansible_mitogen/planner.py, _load_collections.
"""

import ansible.collections.list
import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()
COLLECTIONS = list(ansible.collections.list.list_collection_dirs())
ansible.collections.list.list_collection_dirs = lambda: COLLECTIONS


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """Tasks host by host in step, over Mitogen's connections."""
