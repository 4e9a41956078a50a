"""The `offrl` command: a thin layer over the library, which it imports only when a command needs it."""
