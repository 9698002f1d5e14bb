from django.contrib.auth.decorators import login_required, permission_required
from django.forms import modelform_factory
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache

from .models import Bank, Entry

EntryForm = modelform_factory(Entry, fields=["date", "text", "amount"])


@never_cache
def balance_sheet(request, bank="Newsroom", template_name="ledger/balance_sheet.html"):
    """The sheet itself is cached, on the server; the page that shows it is not."""
    bank = get_object_or_404(Bank, name=bank)
    sheet = bank.balance_sheet()
    if request.GET.get("format") == "json":
        return JsonResponse({"bank": bank.name, **sheet})
    return render(request, template_name, {"bank": bank, "sheet": sheet})


@login_required
@permission_required("ledger.add_entry", raise_exception=True)
def entry_add(
    request,
    bank="Newsroom",
    form_class=EntryForm,
    template_name="ledger/entry_form.html",
    post_save_redirect="ledger:balance_sheet",
):
    bank = get_object_or_404(Bank, name=bank)
    form = form_class(request.POST or None)
    if form.is_valid():
        form.instance.bank = bank
        form.save()
        return redirect(post_save_redirect)
    return render(request, template_name, {"form": form})
