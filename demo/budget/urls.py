from django.urls import include, path

from . import views

app_name = "budget"
urlpatterns = [
    path("stories/", views.story_list, name="story_list"),
    path("stories/add/", views.story_add, name="story_add"),
    path(
        "stories/<int:pk>-<slug:slug>/",
        include(
            [
                path("", views.story_detail, name="story_detail"),
                path("edit/", views.story_edit, name="story_edit"),
            ]
        ),
    ),
]
