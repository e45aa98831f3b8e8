"""The gateway over HTTP: endpoints, bodies, who may what and how often, and the OpenAPI document."""
