"""The HTTP interface of the gateway: endpoints, bodies, tokens, rate limits, and the OpenAPI document."""
