"""What a data set holds, measured on its index: columns in, numbers out. `report` puts it together, `page` shows it."""

from data.analysis.page import render_page
from data.analysis.report import analyse, verdict

__all__ = ["analyse", "render_page", "verdict"]
