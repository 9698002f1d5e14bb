from django.urls import path

from . import views

app_name = "ledger"
urlpatterns = [
    path("", views.balance_sheet, name="balance_sheet"),
    path("entries/add/", views.entry_add, name="entry_add"),
]
