"""The shop's addresses."""

from django.urls import path

from shop import views

urlpatterns = [path("", views.shelf), path("photo", views.photo)]
