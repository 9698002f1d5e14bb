from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache


@never_cache
def visits(request: HttpRequest, template_name: str = "visits/visits.html") -> HttpResponse:
    """
    Count your visits to this page, in your session.

    The count lives wherever sessions live, never in this process: any server can go on counting.
    """
    request.session["visits"] = request.session.get("visits", 0) + 1
    counted = {"visits": request.session["visits"]}
    if request.GET.get("format") == "json":
        return JsonResponse(counted)
    return render(request, template_name, counted)
