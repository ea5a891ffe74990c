"""Files and names: tables of rename rules between key layouts, reading and writing, and finding a file on the network.

`layout` holds what a table is, `facebook` and `huggingface` the tables, `files` reads and writes, `hub` turns a name
into a path. Nothing here knows a model class: a checkpoint is a mapping
of names to tensors until the registry loads it.
"""
