"""Status changes pushed to callers: SSE and WebSocket, per task and per tenant."""
