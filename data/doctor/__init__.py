"""Can training start, and what is odd about the data? `oddities` says what each oddity means, `diagnosis` finds them."""

from data.doctor.comparison import Comparison, compare, comparison_lines
from data.doctor.diagnosis import Diagnosis, diagnose, diagnose_release
from data.doctor.oddities import NAMES
from data.release import Problem

__all__ = ["NAMES", "Comparison", "Diagnosis", "Problem", "compare", "comparison_lines", "diagnose", "diagnose_release"]
