"""
Each view takes what a site may want otherwise (form, template, where to go next) as an argument with
a sane default, and asks the database a number of questions that does not grow with the stories.
"""

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.mail import mail_managers
from django.core.paginator import Paginator
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import condition

from .conditions import front_page_etag, story_etag, story_updated
from .forms import StoryForm
from .models import Story


@cache_control(no_cache=True)  # keep it, but ask before showing it again: the answer is mostly 304
@condition(etag_func=front_page_etag)
def front_page(request: HttpRequest, per_page: int = 10, template_name: str = "budget/front_page.html") -> HttpResponse:
    stories = Story.objects.live().select_related("author")
    page = Paginator(stories, per_page).get_page(request.GET.get("page"))
    return render(request, template_name, {"page": page})


@cache_control(no_cache=True)
@condition(etag_func=story_etag, last_modified_func=story_updated)
def story_detail(
    request: HttpRequest, pk: int, slug: str, template_name: str = "budget/story_detail.html"
) -> HttpResponse:
    stories = Story.objects.visible_to(request.user).select_related("author")
    story = get_object_or_404(stories, pk=pk, slug=slug)
    return render(request, template_name, {"story": story, "editable": story.may_be_edited_by(request.user)})


@login_required
@never_cache
def story_list(request: HttpRequest, per_page: int = 25, template_name: str = "budget/story_list.html") -> HttpResponse:
    """The budget proper: every story, drafts too, for those who write them."""
    stories = Story.objects.select_related("author").defer("text")
    page = Paginator(stories, per_page).get_page(request.GET.get("page"))
    return render(request, template_name, {"page": page})


@login_required
def story_add(
    request: HttpRequest,
    form_class: type[StoryForm] = StoryForm,
    template_name: str = "budget/story_form.html",
    post_save_redirect: str | None = None,
) -> HttpResponse:
    form = form_class(request.POST or None, request.FILES or None)
    if form.is_valid():
        form.instance.author = request.user
        story = form.save()
        # Robust: a mail server that is down is logged, and is no reason to refuse a story.
        transaction.on_commit(lambda: tell_the_editors(story), robust=True)
        return redirect(post_save_redirect or story)
    return render(request, template_name, {"form": form})


@login_required
def story_edit(
    request: HttpRequest,
    pk: int,
    slug: str,
    form_class: type[StoryForm] = StoryForm,
    template_name: str = "budget/story_form.html",
    post_save_redirect: str | None = None,
) -> HttpResponse:
    story = get_object_or_404(Story.objects.select_related("author"), pk=pk, slug=slug)
    if not story.may_be_edited_by(request.user):
        raise PermissionDenied
    form = form_class(request.POST or None, request.FILES or None, instance=story)
    if form.is_valid():
        story = form.save()
        return redirect(post_save_redirect or story)
    return render(request, template_name, {"form": form, "story": story})


def tell_the_editors(story: Story) -> None:
    mail_managers(
        f"New story: {story.title}",
        f"{story.byline} filed “{story.title}” for {story.date:%d %B %Y} ({story.get_status_display()}).\n\n"
        f"{story.text}\n",
    )
