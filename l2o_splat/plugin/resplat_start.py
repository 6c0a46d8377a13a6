"""The former home of :class:`ContextConfig`, which ``config.yml`` files of version 0.1 name."""

from l2o_splat.plugin.context_views import ContextConfig

__all__ = ["ContextConfig"]
