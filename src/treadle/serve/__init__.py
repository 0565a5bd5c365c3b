"""The engine, the API and the page that answer users and take their feedback."""
