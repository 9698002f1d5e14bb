"""
What makes a page a different page: asked with one small query, before any page is built.

An ETag is opaque, and holds everything the page depends on: the stories, the release (its templates
differ) and the reader (whose name is in the header). It must not hold what no visitor can see, or
every copy would be stale at once.
"""

from datetime import datetime
from hashlib import sha256

from about.identity import release
from django.db.models import Count, Max
from django.http import HttpRequest

from .models import Story


def fingerprint(request: HttpRequest, *state: object) -> str:
    seen = (release(), request.user.pk, request.user.get_username(), *state)
    return f'"{sha256(repr(seen).encode()).hexdigest()[:32]}"'


def front_page_etag(request: HttpRequest) -> str:
    # The number of stories too: the newest may stay while an older one is taken down.
    return fingerprint(request, Story.objects.live().aggregate(Count("pk"), Max("updated")))


def story_updated(request: HttpRequest, pk: int, slug: str) -> datetime | None:
    """None for a story that is not there, or not for this reader: the view then says so."""
    stories = Story.objects.visible_to(request.user).filter(pk=pk, slug=slug)
    return stories.values_list("updated", flat=True).first()


def story_etag(request: HttpRequest, pk: int, slug: str) -> str | None:
    updated = story_updated(request, pk, slug)
    return fingerprint(request, pk, updated) if updated else None
