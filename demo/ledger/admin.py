from django.contrib import admin

from .models import Bank, Entry

admin.site.register(Bank)


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ["date", "text", "amount", "bank"]
    list_select_related = ["bank"]
    date_hierarchy = "date"
