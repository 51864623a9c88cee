"""Tasks that a user brings, from `.jsonl`, `.json` and `.parquet` files.

`read_rows` reads any of them. A converter makes a task of one row: `math_row` here, others beside their environments.
`once_per_file` keeps the tasks of a file, so that all environments of a process share one copy. Rows that repeat a
problem are one problem: `Problems`.
"""

from trm_envs.rows.files import convert_rows, iter_rows, once_per_file, read_rows
from trm_envs.rows.math_rows import MathRow, load_math_problems, load_math_rows, math_row
from trm_envs.rows.options import check_row_options
from trm_envs.rows.problems import Problems, UnscorableRow, find_problems

__all__ = [
    "MathRow",
    "Problems",
    "UnscorableRow",
    "check_row_options",
    "convert_rows",
    "find_problems",
    "iter_rows",
    "load_math_problems",
    "load_math_rows",
    "math_row",
    "once_per_file",
    "read_rows",
]
