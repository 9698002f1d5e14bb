"""Every address of the site: the applications bring their own, this file says where they hang."""

from budget.views import front_page
from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", front_page, name="front_page"),
    path("budget/", include("budget.urls")),
    path("ledger/", include("ledger.urls")),
    path("visits/", include("visits.urls")),
    path("about/", include("about.urls")),
    path("accounts/", include("accounts.urls")),
    path("admin/", admin.site.urls),
    # Uploaded pictures on a developer's machine; an empty list when DEBUG is off.
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]
