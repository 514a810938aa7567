"""Do open-weight language models let themselves be shut down? Measured on your own hardware."""

__version__ = "0.1.0"
