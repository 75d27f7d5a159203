"""The web console: server-rendered pages for operators and tenants, everything they load in this package."""
