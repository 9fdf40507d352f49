"""A page that people can try, as a Hugging Face Space."""

from .folder import push_space, write_space

__all__ = ["push_space", "write_space"]
