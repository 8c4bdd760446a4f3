"""Django as an ASGI application: its view is async."""

import django_project
from django.core.handlers.asgi import ASGIHandler

django_project.urlpatterns += django_project.urls(django_project.handle_async)
app = ASGIHandler()
