"""Weights that an encoder can start from: by name, from a file, or of a network of ours.

table.py    names: which network they fill, where they come from, their data, license and normalization
store.py    where they lie on this machine, and whether they are what they were
hub.py      fetching one, which only `medformer weights get` asks for
listing.py  what there is, as rows
loading.py  known layouts of keys, into networks of any number of dimensions
"""
