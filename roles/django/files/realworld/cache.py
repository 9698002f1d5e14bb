"""The caches of the tier for a project that was written for others: memcached refuses some of the keys they take."""

import hashlib
import re

from django.core.cache.backends.memcached import PyMemcacheCache

LONGEST = 250  # bytes of a key
REFUSED = re.compile(r"[\x00-\x20\x7f]")


class TierCache(PyMemcacheCache):
    """Has a hash in place of a key that is too long, or has a space or a control character."""

    def make_key(self, key: object, version: int | None = None) -> str:
        made = str(super().make_key(key, version))
        encoded = made.encode("utf-8", "surrogatepass")
        if len(encoded) > LONGEST or REFUSED.search(made):
            return "realworld.sha256." + hashlib.sha256(encoded).hexdigest()
        return made
