from django.contrib.auth.decorators import login_required, permission_required
from django.forms import ModelForm, modelform_factory
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache

from .models import Bank, Entry

EntryForm = modelform_factory(Entry, fields=["date", "text", "amount"])


@never_cache
def balance_sheet(
    request: HttpRequest, bank: str = "Newsroom", template_name: str = "ledger/balance_sheet.html"
) -> HttpResponse:
    """The sheet itself is cached, on the server; the page that shows it is not."""
    record = get_object_or_404(Bank, name=bank)
    sheet = record.balance_sheet()
    if request.GET.get("format") == "json":
        return JsonResponse({"bank": record.name, **sheet})
    return render(request, template_name, {"bank": record, "sheet": sheet})


@login_required
@permission_required("ledger.add_entry", raise_exception=True)
def entry_add(
    request: HttpRequest,
    bank: str = "Newsroom",
    form_class: type[ModelForm] = EntryForm,
    template_name: str = "ledger/entry_form.html",
    post_save_redirect: str = "ledger:balance_sheet",
) -> HttpResponse:
    record = get_object_or_404(Bank, name=bank)
    form = form_class(request.POST or None)
    if form.is_valid():
        form.instance.bank = record
        form.save()
        return redirect(post_save_redirect)
    return render(request, template_name, {"form": form})
