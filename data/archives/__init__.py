"""Archives that come from outside, zip and tar: open them with clear errors, and extract them without trusting them.

Nothing is written before every entry has been judged; nothing appears under its final name before all of it is there.
"""

from data.archives.entries import Progress
from data.archives.extraction import STAMP, content_bytes, safe_extract
from data.archives.zips import open_zip

__all__ = ["STAMP", "Progress", "content_bytes", "open_zip", "safe_extract"]
