"""Can training start, and what is odd about the data? `oddities` says what each oddity means, `diagnosis` finds them."""

from data.doctor.comparison import LOOK_ALIKE, Comparison, compare
from data.doctor.diagnosis import Diagnosis, diagnose, diagnose_release
from data.doctor.oddities import NAMES
from data.release import Problem

__all__ = ["LOOK_ALIKE", "NAMES", "Comparison", "Diagnosis", "Problem", "compare", "diagnose", "diagnose_release"]
