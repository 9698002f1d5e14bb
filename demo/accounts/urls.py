"""Signing in and out is Django's own; this application adds a page and the looks."""

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path
from django.views.generic import TemplateView

app_name = "accounts"
urlpatterns = [
    # Signing out is a form with a token of its own, kept off the pages that answer 304.
    path("", login_required(TemplateView.as_view(template_name="accounts/account.html")), name="account"),
    path(
        "login/",
        LoginView.as_view(template_name="accounts/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
]
