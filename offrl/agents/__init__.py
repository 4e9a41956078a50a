"""The algorithms, one file each; `offrl.plugins.algorithms` is the table that names them."""
