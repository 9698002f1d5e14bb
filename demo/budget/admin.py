from django.contrib import admin
from django.http import HttpRequest

from .forms import StoryForm
from .models import Story


@admin.register(Story)
class StoryAdmin(admin.ModelAdmin):
    form = StoryForm
    list_display = ["title", "date", "status", "author"]
    list_filter = ["status"]
    list_select_related = ["author"]
    date_hierarchy = "date"
    search_fields = ["title", "text"]

    def save_model(self, request: HttpRequest, story: Story, form: StoryForm, change: bool) -> None:
        if not change:
            story.author = request.user
        super().save_model(request, story, form, change)
