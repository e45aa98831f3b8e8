"""Plugins: a user's own source, exposure policy, candidate rule, metric or variant, each in one Python file.

`protocols` defines the interface of each kind, `plugin` finds and loads the file, `laws` checks it, `loaded` has the
plugins of a run. See docs/plugins.md.
"""
