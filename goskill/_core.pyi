"""Type stubs of the native core."""
