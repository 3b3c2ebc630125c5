"""What is not Python: the program that stubs are (stub.c), compiled to `stub` beside it when Cove is installed."""
