"""Plugins: a user's own source, exposure policy, candidate rule, metric or variant, each in one Python file.

`protocols` says what is asked of each kind, `plugin` finds and loads the file, `laws` checks it, `loaded` gives a
process those of its run. See docs/plugins.md.
"""
