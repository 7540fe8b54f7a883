"""Arrays that are written piece by piece."""

from pathlib import Path

import numpy as np


class GrowingArray:
    """Writes a one-dimensional ``.npy`` file piece by piece, to read with ``numpy.load(mmap_mode="r")``.

    Args:
        path: the file.
        dtype: Dtype of the numbers.
    """

    dtype: np.dtype
    length: int

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype, self.length = dtype, 0
        self._file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy leaves room in the header for the longest length, so that it can be overwritten in place.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Add numbers at the end."""
        self._file.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the final length."""
        if self._file.closed:
            return
        try:
            self._file.seek(0)
            self._write_header()
        finally:
            self._file.close()
