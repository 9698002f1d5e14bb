from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.text import slugify

from .choices import Choices

if TYPE_CHECKING:  # at run time these models would be loaded before their application
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

STATUSES = Choices("Live", "Draft")


class StoryQuerySet(models.QuerySet):
    def live(self) -> "StoryQuerySet":
        return self.filter(status=STATUSES.code("Live"))

    def visible_to(self, user: "AbstractBaseUser | AnonymousUser") -> "StoryQuerySet":
        return self.all() if user.is_authenticated else self.live()


class Story(models.Model):
    """A line in the news budget: what we plan to print, when, and how far it is."""

    title = models.CharField(max_length=120)
    slug = models.SlugField(max_length=80, editable=False)
    date = models.DateField("budget date", default=timezone.localdate)
    status = models.PositiveSmallIntegerField(choices=STATUSES, default=STATUSES.code("Draft"))
    text = models.TextField()
    # The size is kept beside the name, so that a page can say it without opening the file.
    picture = models.ImageField(
        upload_to="stories/%Y/%m/", width_field="picture_width", height_field="picture_height", blank=True
    )
    picture_width = models.PositiveIntegerField(null=True, editable=False)
    picture_height = models.PositiveIntegerField(null=True, editable=False)
    caption = models.CharField(
        max_length=200, blank=True, help_text="What the picture shows, for those who cannot see it too."
    )
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, editable=False, on_delete=models.SET_NULL
    )
    updated = models.DateTimeField(auto_now=True)

    objects = StoryQuerySet.as_manager()

    class Meta:
        ordering = ["-date", "-pk"]
        indexes = [models.Index(fields=["status", "-date", "-id"])]
        verbose_name_plural = "stories"

    def __str__(self) -> str:
        return self.title

    def save(self, **kwargs: Any) -> None:
        # Made once: a story keeps its address when its title changes.
        if not self.slug:
            self.slug = slugify(self.title)[:80] or "story"
        super().save(**kwargs)

    def get_absolute_url(self) -> str:
        return reverse("budget:story_detail", args=[self.pk, self.slug])

    @property
    def byline(self) -> str:
        return str(self.author.get_full_name() or self.author) if self.author else "the newsdesk"

    def may_be_edited_by(self, user: "AbstractBaseUser | AnonymousUser") -> bool:
        return user.is_authenticated and (self.author_id == user.pk or user.has_perm("budget.change_story"))
