"""
What makes a page a different page: asked with one small query, before any page is built.

An ETag is opaque, and holds everything the page depends on: the stories, the release (its templates
differ) and the reader (whose name is in the header). It must not hold what no visitor can see, or
every copy would be stale at once.
"""

from hashlib import sha256

from about.identity import release
from django.db.models import Count, Max

from .models import Story


def fingerprint(request, *state):
    seen = (release(), request.user.pk, request.user.get_username(), *state)
    return f'"{sha256(repr(seen).encode()).hexdigest()[:32]}"'


def front_page_etag(request):
    # The number of stories too: the newest may stay while an older one is taken down.
    return fingerprint(request, Story.objects.live().aggregate(Count("pk"), Max("updated")))


def story_updated(request, pk, slug):
    """None for a story that is not there, or not for this reader: the view then says so."""
    stories = Story.objects.visible_to(request.user).filter(pk=pk, slug=slug)
    return stories.values_list("updated", flat=True).first()


def story_etag(request, pk, slug):
    updated = story_updated(request, pk, slug)
    return updated and fingerprint(request, pk, updated)
