"""Django as a WSGI application: its view is sync."""

import django_project
from django.core.handlers.wsgi import WSGIHandler

django_project.urlpatterns += django_project.urls(django_project.handle)
app = WSGIHandler()
