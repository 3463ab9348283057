"""Live market data for synchronous Python: every exchange a thread, every order book a dict."""
