"""The look-alike release: both PhysioNet layouts with drawn films and invented questions. It has no clinical meaning.

Everything is a function of (seed, study number), so any number of processes writes the same bytes.
"""

from data.synthetic.writer import write_release

__all__ = ["write_release"]
